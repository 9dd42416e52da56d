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
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from testbed.delays import DUE_TIME, NETEM, NOBODY, peer_delays_s
from testbed.errors import RunFailed
from testbed.fabric.private import hold_lifeline
from testbed.fabric.shaping import HEADER_BYTES
from testbed.worlds.forkserver import Exited, ForkServer, StartOrder
from testbed.worlds.plan import (
    AGENTS,
    SCHEDULER,
    WAITED,
    HostStart,
    LabPlan,
    TruthStart,
    WirePlan,
)
from testbed.worlds.samples import (
    PortBytes,
    Sample,
    Samples,
    machine_busy_s,
    own_cpu_s,
)

if TYPE_CHECKING:
    from testbed.fabric.fabric import Fabric

START_AHEAD_S = 0.2
ROOT_CAUSE_S = 0.5  # how long to listen for the host that died first
SCHEDULER_S = 2.0  # and for the scheduler's, which knows what is undecided
LOST_PEER = "ended without a goodbye"


def say(**what: object) -> None:
    """One line for the supervisor."""
    print(json.dumps(what), flush=True)


def delay_by(wires: WirePlan, time_scale: float) -> str:
    """Who makes the delays of links: the kernel if it can, else the transport.

    Raises EnvironmentUnfit outside of private namespaces: the kernel is tried on their lo.
    """
    from testbed.fabric.delay import netem_works
    from testbed.fabric.links import MAX_DELAY_S
    from testbed.fabric.namespaces import require_private
    from testbed.fabric.netlink import Rtnetlink

    if not wires.delays_s:
        return NOBODY
    require_private()
    lab = Rtnetlink()
    try:
        longest_s = max(wires.delays_s.values()) * time_scale
        return NETEM if longest_s <= MAX_DELAY_S and netem_works(lab) else DUE_TIME
    finally:
        lab.close()


def netem_delays_s(wires: WirePlan, time_scale: float) -> dict[tuple[str, str], float]:
    """Delays of links in real seconds, as the fabric takes them."""
    found = {}
    for link, delay_s in wires.delays_s.items():
        owner, nic = link.split(":")
        found[owner, nic] = delay_s * time_scale
    return found


def build_fabric(wires: WirePlan, delays_s: dict[tuple[str, str], float] | None = None) -> "Fabric":
    """The cluster's network, up and shaped; with delays by netem, if any are given."""
    from testbed.fabric.fabric import Fabric
    from testbed.fabric.rates import link_rates
    from topologies.dualpath import DualPathTopo

    topo = DualPathTopo(
        wires.prefill_nodes,
        wires.decode_nodes,
        gpus_per_node=wires.gpus_per_node,
        folded=wires.folded,
        storage_hosts=wires.storage_hosts,
    )
    rates = link_rates(
        topo.shape,
        snic_bps=wires.snic_bps,
        cnic_bps=wires.cnic_bps,
        pcie_bps=wires.node_bps,
        uplink_bps=wires.node_bps,
        storage_bps=wires.storage_bps,
        overrides={(host, "snic"): bps for host, bps in wires.snic_overrides_bps.items()},
    )
    fabric = Fabric(topo, rates, qos=wires.qos, delays_s=delays_s)
    fabric.start()
    return fabric


class Lab:
    """One run, from the plan in its folder to samples and accounts beside it."""

    def __init__(self, folder: Path, server: ForkServer) -> None:
        self._folder = folder
        self._plan = msgspec.msgpack.decode((folder / "plan.msgpack").read_bytes(), type=LabPlan)
        self._server = server
        self._controls: dict[str, socket.socket] = {}
        self._running: set[str] = set()
        self._samples: list[Sample] = []
        self._delay_by = NOBODY

    def run(self) -> None:
        """Everything, in order; raises RunFailed if a host ends badly."""
        began_s = time.monotonic()
        wires, time_scale = self._plan.wires, self._plan.world.time_scale
        self._delay_by = delay_by(wires, time_scale)
        by_netem = self._delay_by == NETEM
        fabric = build_fabric(wires, netem_delays_s(wires, time_scale) if by_netem else None)
        network_up_s = time.monotonic() - began_s
        say(phase="network", seconds=network_up_s, hosts=len(fabric.hosts))
        self._start_hosts(fabric)
        self._await_ready()
        start_s = self._go()
        say(phase="running", start_monotonic_s=start_s)
        self._watch(fabric, start_s)
        for control in self._controls.values():
            control.close()
        samples = Samples(
            start_s, self._samples, _class_payload(fabric), network_up_s, self._delay_by
        )
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

    def _start_hosts(self, fabric: "Fabric") -> None:
        directory = {name: net.addresses for name, net in fabric.hosts.items()}
        wires = self._plan.wires
        shape = wires.shape
        held = wires.delays_s if self._delay_by == DUE_TIME else {}
        for host in self._plan.hosts:
            start_file = self._folder / "hosts" / f"{host.name}.msgpack"
            delays_s = peer_delays_s(shape, held, host.name, directory)
            start = HostStart(host, self._plan.world, directory, delays_s)
            start_file.write_bytes(msgspec.msgpack.encode(start))
            order = StartOrder(
                host.name, str(start_file), str(self._folder / "logs" / f"{host.name}.log")
            )
            control = self._server.start(order, fabric.hosts[host.name].netns_fd)
            self._controls[host.name] = control
            self._running.add(host.name)

    def _await_ready(self) -> None:
        """Every host has its memory and models; the first that cannot ends the run."""
        deadline_s = time.monotonic() + self._plan.start_deadline_s
        with selectors.DefaultSelector() as selector:
            for host, control in self._controls.items():
                selector.register(control, selectors.EVENT_READ, host)
            while selector.get_map():
                events = selector.select(max(0.0, deadline_s - time.monotonic()))
                if not events:
                    late = sorted(key.data for key in selector.get_map().values())
                    raise RunFailed(
                        f"{', '.join(late)} not ready after {self._plan.start_deadline_s:g} s; "
                        f"see {self._folder / 'logs'}"
                    )
                for key, _ in events:
                    if not self._controls[key.data].recv(1):
                        raise self._failure(key.data, "before the start")
                    selector.unregister(key.fileobj)

    def _go(self) -> float:
        start_s = time.monotonic() + START_AHEAD_S
        stamp = int(start_s * 1e9).to_bytes(8, "big")
        for control in self._controls.values():
            control.sendall(stamp)
        return start_s

    def _watch(self, fabric: "Fabric", start_s: float) -> None:
        """Sample on a fixed grid and pass progress on until every host has left."""
        period_s, grid = self._plan.sample_period_s, 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.socket, selectors.EVENT_READ, "")
            selector.register(self._controls[AGENTS], selectors.EVENT_READ, AGENTS)
            while self._running:
                due_s = start_s + grid * period_s
                events = selector.select(max(0.0, due_s - time.monotonic()))
                for key, _ in events:
                    if key.data == AGENTS:
                        self._pass_on(selector)
                    else:
                        self._hear_exit()
                if time.monotonic() >= due_s:
                    self._samples.append(_look(fabric, due_s))
                    grid = max(grid + 1, int((time.monotonic() - start_s) / period_s))
        self._samples.append(_look(fabric, time.monotonic()))

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


def _look(fabric: "Fabric", due_s: float) -> Sample:
    at_s = time.monotonic()
    ports = tuple(
        PortBytes(host, nic, link.received_payload_bytes, link.sent_payload_bytes)
        for (host, nic), link in fabric.counters().items()
    )
    return Sample(at_s, ports, machine_busy_s(), own_cpu_s(), max(0.0, at_s - due_s))


def _class_payload(fabric: "Fabric") -> dict[str, dict[str, int]]:
    """Payload by class at the owner's egress (`host:nic>`) and at the switch port (`host:nic<`)."""
    found = {}
    for (host, nic), classes in fabric.class_counters().items():
        for way, counters in ((">", classes.sent), ("<", classes.received)):
            found[f"{host}:{nic}{way}"] = {
                name: c.sent_bytes - HEADER_BYTES * c.sent_packets for name, c in counters.items()
            }
    return found


def main() -> int:
    """PID 1: the forkserver first, so that torch loads while the network comes up."""
    server = ForkServer()
    hold_lifeline()
    try:
        Lab(Path(sys.argv[1]), server).run()
    except RunFailed as error:
        say(phase="failed", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
