"""PID 1 of the private namespaces: builds the network, starts the hosts, watches, takes samples.

Run as `python -m testbed.worlds.lab RUN_FOLDER` by the supervisor. Its standard output is one
JSON object a line; what it has to say in words goes to the run's lab.log.
"""

import json
import os
import select
import selectors
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from testbed.clusters.control import Control, inherited_listener
from testbed.clusters.names import name_of
from testbed.clusters.protocol import About
from testbed.delays import DUE_TIME, NETEM, NOBODY, peer_delays_s
from testbed.errors import EnvironmentUnfit, RunFailed
from testbed.fabric.private import hold_lifeline
from testbed.fabric.privilege import mode_inside
from testbed.worlds.carried import require_carried
from testbed.worlds.forkserver import Exited, ForkServer, StartOrder
from testbed.worlds.looks import Looks
from testbed.worlds.network import Network
from testbed.worlds.plan import (
    AGENTS,
    NAMESPACES,
    SCHEDULER,
    WAITED,
    HostStart,
    LabPlan,
    TruthStart,
    WirePlan,
)
from testbed.worlds.wires import build_fabric

START_AHEAD_S = 0.2
ROOT_CAUSE_S = 0.5  # how long to listen for the host that died first
SCHEDULER_S = 2.0  # and for the scheduler's, which knows what is undecided
ASKED, EXITS = "", "exits"  # in selectors, beside hosts: the control socket, and the forkserver
LOST_PEER = "ended without a goodbye"


def say(**what: object) -> None:
    """One line for the supervisor."""
    print(json.dumps(what), flush=True)


class Lab:
    """One run, from the plan in its folder to samples and accounts beside it."""

    def __init__(
        self,
        folder: Path,
        server: ForkServer,
        build: Callable[[WirePlan], Network] = build_fabric,
    ) -> None:
        self._folder = folder
        self._build = build
        self._plan = msgspec.msgpack.decode((folder / "plan.msgpack").read_bytes(), type=LabPlan)
        self._server = server
        self.control: Control | None = None  # of a lab that answers callers
        self._controls: dict[str, socket.socket] = {}
        self._running: set[str] = set()
        self._looks = Looks(judge=self._plan.fabric == NAMESPACES)

    def run(self) -> None:
        """Everything, in order; raises RunFailed if a host ends badly."""
        began_s = time.monotonic()
        fabric = self._build(self._plan.wires)
        network_up_s = time.monotonic() - began_s
        say(phase="network", seconds=network_up_s, hosts=len(fabric.hosts))
        self._start_hosts(fabric)
        self._await_ready()
        start_s = self._go()
        if self.control is not None:
            self.control.phase = "running"
        say(phase="running", start_monotonic_s=start_s)
        self._watch(fabric, start_s)
        for control in self._controls.values():
            control.close()
        by = _delay_by(fabric, self._plan.wires)
        samples = self._looks.end(fabric, start_s, network_up_s, by)
        if self.control is not None:
            samples.changes = self.control.changes
        (self._folder / "samples.msgpack").write_bytes(msgspec.msgpack.encode(samples))
        say(phase="checking")
        self._check_tokens()
        say(phase="ended")

    def _check_tokens(self) -> None:
        """Every generated token against the reference, in as many processes as there are cores."""
        shares = os.cpu_count() or 1
        controls = []
        for share in range(shares):
            name = f"truth{share}"
            start_file = self._folder / "hosts" / f"{name}.msgpack"
            start_file.write_bytes(
                msgspec.msgpack.encode(TruthStart(str(self._folder), share, shares))
            )
            log = str(self._folder / "logs" / f"{name}.log")
            controls.append(self._server.start(StartOrder(name, str(start_file), log), None))
            self._running.add(name)
        while self._running:
            self._hear_exit()
        for control in controls:
            control.close()

    def _start_hosts(self, fabric: Network) -> None:
        directory = {name: net.addresses for name, net in fabric.hosts.items()}
        shape = self._plan.wires.shape
        delays_of = {} if fabric.delays_links else self._plan.wires.delays_s
        for host in self._plan.hosts:
            start_file = self._folder / "hosts" / f"{host.name}.msgpack"
            netns_fd = fabric.hosts[host.name].netns_fd
            delays_s = peer_delays_s(shape, delays_of, host.name, directory)
            start = HostStart(host, self._plan.world, directory, netns_fd is not None, delays_s)
            start_file.write_bytes(msgspec.msgpack.encode(start))
            order = StartOrder(
                host.name, str(start_file), str(self._folder / "logs" / f"{host.name}.log")
            )
            control = self._server.start(order, netns_fd)
            self._controls[host.name] = control
            self._running.add(host.name)

    def _await_ready(self) -> None:
        """Every host has its memory and models; the first that cannot ends the run."""
        deadline_s = time.monotonic() + self._plan.start_deadline_s
        with selectors.DefaultSelector() as selector:
            for host, control in self._controls.items():
                selector.register(control, selectors.EVENT_READ, host)
            waiting = set(self._controls)
            self._listen(selector)
            while waiting:
                events = selector.select(max(0.0, deadline_s - time.monotonic()))
                if not events:
                    late = sorted(waiting)
                    raise RunFailed(
                        f"{', '.join(late)} not ready after {self._plan.start_deadline_s:g} s; "
                        f"see {self._folder / 'logs'}"
                    )
                for key, _ in events:
                    if key.data == ASKED:
                        self._answer()
                        continue
                    if not self._controls[key.data].recv(1):
                        raise self._failure(key.data, "before the start")
                    selector.unregister(key.fileobj)
                    waiting.discard(key.data)

    def _listen(self, selector: selectors.BaseSelector) -> None:
        if self.control is not None:
            selector.register(self.control, selectors.EVENT_READ, ASKED)

    def _answer(self) -> None:
        assert self.control is not None
        self.control.serve()

    def _go(self) -> float:
        start_s = time.monotonic() + START_AHEAD_S
        stamp = int(start_s * 1e9).to_bytes(8, "big")
        for control in self._controls.values():
            control.sendall(stamp)
        return start_s

    def _watch(self, fabric: Network, start_s: float) -> None:
        """Sample on a fixed grid and pass progress on until every host has left."""
        period_s, grid, hosts = self._plan.sample_period_s, 0, frozenset(self._controls)
        self._looks.begin()
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.socket, selectors.EVENT_READ, EXITS)
            selector.register(self._controls[AGENTS], selectors.EVENT_READ, AGENTS)
            self._listen(selector)
            while self._running:
                due_s = start_s + grid * period_s
                events = selector.select(max(0.0, due_s - time.monotonic()))
                for key, _ in events:
                    if key.data == AGENTS:
                        self._pass_on(selector)
                    elif key.data == ASKED:
                        self._answer()
                    else:
                        self._hear_exit()
                if time.monotonic() >= due_s:
                    self._looks.take(fabric, hosts, due_s)
                    grid = max(grid + 1, int((time.monotonic() - start_s) / period_s))
        self._looks.take(fabric, hosts, time.monotonic())

    def _pass_on(self, selector: selectors.BaseSelector) -> None:
        lines = self._controls[AGENTS].recv(1 << 16)
        if not lines:
            selector.unregister(self._controls[AGENTS])
            return
        ended, total = json.loads(lines.splitlines()[-1])
        say(progress=ended, total=total)

    def _hear_exit(self) -> None:
        exited = self._server.exited()
        self._running.discard(exited.host)
        if exited.code != 0:
            raise self._root_cause(exited)

    def _root_cause(self, first: Exited) -> RunFailed:
        """When one host dies its peers follow, and may be heard first: prefer who was not told."""
        failed = [first]
        began_s = time.monotonic()
        while True:
            heard = SCHEDULER in [end.host for end in failed]
            wait_s = (ROOT_CAUSE_S if heard else SCHEDULER_S) - (time.monotonic() - began_s)
            if not select.select([self._server.socket], [], [], max(0, wait_s))[0]:
                break
            failed.append(self._server.exited())
        failures = {
            end.host: self._failure(end.host, f"with code {end.code}")
            for end in failed
            if end.code != 0
        }
        own = [host for host, failure in failures.items() if LOST_PEER not in str(failure)]
        host = own[0] if own else next(iter(failures))
        undecided = "" if host == SCHEDULER else self._undecided()
        return RunFailed(f"{failures[host]}{undecided}")

    def _undecided(self) -> str:
        """What the scheduler's host says that it waited for, if it has ended too."""
        log = self._log(SCHEDULER)
        lines = log.read_text().splitlines() if log.exists() else []
        waited = next((line for line in lines if line.startswith(WAITED)), "")
        return f"; {SCHEDULER} {waited}" if waited else ""

    def _log(self, host: str) -> Path:
        return self._folder / "logs" / f"{host}.log"

    def _failure(self, host: str, how: str) -> RunFailed:
        log = self._log(host)
        lines = log.read_text().strip().splitlines() if log.exists() else []
        last = lines[-1] if lines else "it left no word"
        return RunFailed(f"host {host} ended {how}: {last} (whole story: {log})")


def _delay_by(fabric: Network, wires: WirePlan) -> str:
    if not wires.delays_s:
        return NOBODY
    return NETEM if fabric.delays_links else DUE_TIME


def play(lab: Lab) -> int:
    """Run it to its end; returns the exit code, and tells the supervisor what went wrong."""
    try:
        lab.run()
    except RunFailed as error:
        say(phase="failed", reason=str(error))
    except EnvironmentUnfit as error:
        say(phase="unfit", reason=str(error))
    except SystemExit as ended:
        if ended.code == 0:
            say(phase="failed", reason="it was taken down by `testbed down`")
        raise
    else:
        return 0
    return 1


def main() -> int:
    """PID 1: the forkserver first, so that torch loads while the network comes up."""
    listener = inherited_listener()
    server = ForkServer()
    hold_lifeline()
    folder = Path(sys.argv[1])

    def build(wires: WirePlan) -> Network:
        began_s = time.monotonic()
        fabric = build_fabric(wires)
        # Before anybody can ask for it: a capture of the run shall see the run alone.
        require_carried(fabric, only_fastest=True)
        about = About(name_of(listener), "run", str(folder), mode_inside(), began_s, wires)
        lab.control = Control(listener, about, fabric)
        return fabric

    lab = Lab(folder, server, build)
    return play(lab)


if __name__ == "__main__":
    sys.exit(main())
