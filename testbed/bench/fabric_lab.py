"""PID 1 of a private network of `scripts/bench fabric`: does its jobs, a line of JSON for each."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from testbed.fabric.private import die_with_parent, hold_lifeline

hold_lifeline()

import msgspec  # noqa: E402

from engines.real.frames import CLASSES  # noqa: E402
from engines.seams.transport import TrafficClass  # noqa: E402
from testbed.bench import fabric_hosts as hosts  # noqa: E402
from testbed.bench.fabric_jobs import (  # noqa: E402
    Bulk,
    BulkResult,
    Failed,
    Lab,
    Latency,
    LatencyResult,
)
from testbed.bench.fabric_meter import Meter, cpu_s  # noqa: E402
from testbed.bench.fabric_others import Patience, Window  # noqa: E402
from testbed.errors import RunFailed, TestbedError  # noqa: E402
from testbed.fabric.fabric import Fabric  # noqa: E402
from testbed.fabric.namespaces import join, show_own_nics  # noqa: E402
from testbed.fabric.rates import LinkRates  # noqa: E402
from topologies.star import StarTopo  # noqa: E402

SETTLE_S = 0.5  # slow start, and the first fill of the queues
START_WITHIN_S = 30.0
FLOWING_BYTES = 1 << 17  # a connection that brought more carries data and not only words
# KV and MODEL have processes of their own, as those of different engines: what is measured is how
# links keep them apart, not how one process's loop takes turns.
KV_BASE, MODEL_BASE = 9410, 9510
KV_PORT = KV_BASE + CLASSES.index(TrafficClass.KV)
BESIDE_NICE = 5  # as buffers and storage have it in a run, beside engines
KV_TOS = "0x20"
CHECK_S = 0.01
SERVER = "h0"
ALIASES = tuple(f"{SERVER}-{number}" for number in range(8))  # a sender's connections go by name
KV_FLOWS = len(ALIASES)  # of each sender beside MODEL: a few never fill its own queue

Result = BulkResult | LatencyResult | Failed
T = TypeVar("T")


class Child:
    """A forked process in a host's namespace, and the lab's end of the wire to it."""

    def __init__(self, netns_fd: int, body: Callable[[socket.socket], None]) -> None:
        self.control, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            _be(netns_fd, body, theirs)
        theirs.close()
        self.control.settimeout(START_WITHIN_S)

    def ready(self) -> None:
        """Wait for its word."""
        if self.control.recv(1) != b"R":
            raise RunFailed("a host process of the benchmark died at its start; see above")

    def end(self) -> bytes:
        """Ask it to stop; returns what it has to say."""
        self.control.shutdown(socket.SHUT_WR)
        said = bytearray()
        while data := self.control.recv(1 << 16):
            said += data
        return self._gone(bytes(said))

    def kill(self) -> None:
        """For programs that know no better."""
        os.kill(self.pid, signal.SIGKILL)
        self._gone(b"")

    def _gone(self, said: bytes) -> bytes:
        os.waitpid(self.pid, 0)
        self.control.close()
        self.pid = 0
        return said


def _be(netns_fd: int, body: Callable[[socket.socket], None], control: socket.socket) -> None:
    code = 1
    try:
        die_with_parent()
        join(netns_fd)
        body(control)
        code = 0
    except BaseException as error:
        sys.stderr.write(f"bench: a host process failed: {error!r}\n")
    finally:
        os._exit(code)


class Bench:
    """The network, and the processes of the job that is under way."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        topo = StarTopo(lab.hosts)
        shaped = lab.jobs[0].bps
        self._links = [(f"h{number}", "snic") for number in range(lab.hosts)]
        rates: dict[tuple[str, str], float | None] = dict.fromkeys(self._links, shaped)
        self._fabric = Fabric(topo, LinkRates(rates), qos=lab.qos)
        self._fabric.start()
        self._meter = Meter(self._fabric.hosts[SERVER].netns_fd)
        self._children: list[Child] = []
        self._patience = Patience()

    def do(self, job: Bulk | Latency) -> Result:
        """One job, again if others on this machine disturb it."""
        if job.bps is not None:
            for link in self._links:
                self._fabric.set_link(link, payload_bps=job.bps)
        return self._patience.spent_on(lambda: self._once(job))

    def _once(self, job: Bulk | Latency) -> Result:
        """One try, and nothing left of it."""
        try:
            return self._latency(job) if isinstance(job, Latency) else self._bulk(job)
        except (TestbedError, OSError, ValueError) as error:
            return Failed(f"{type(error).__name__}: {error}")
        finally:
            for child in reversed(self._children):
                if child.pid:
                    child.kill()
            self._children.clear()

    def _start(self, host: str, body: Callable[[socket.socket], None]) -> Child:
        child = Child(self._fabric.hosts[host].netns_fd, body)
        self._children.append(child)
        return child

    def _addresses(self) -> dict[str, str]:
        own = {name: host.addresses["storage"] for name, host in self._fabric.hosts.items()}
        senders = {f"{name}-kv": address for name, address in own.items()}
        return {**own, **senders, **dict.fromkeys(ALIASES, own[SERVER])}

    def _ours(self, host: str, piece_bytes: int, part: Callable[..., object], *args: object,
              name: str = "", port_base: int = KV_BASE, nice: int = 0) -> Child:  # fmt: skip
        addresses = self._addresses()

        def body(control: socket.socket) -> None:
            os.nice(nice)
            end = hosts.Host(name or host, addresses, port_base, piece_bytes, control)
            end.play(lambda one: part(one, *args))  # type: ignore[arg-type, return-value]

        child = self._start(host, body)
        child.ready()
        return child

    def _bulk(self, job: Bulk) -> BulkResult:
        start = {"ours": self._start_ours, "iperf3": self._start_iperf3, "nixl": self._start_nixl}
        share = start[job.peer](job)
        self._flowing(job.flows)
        time.sleep(SETTLE_S)
        pids = [child.pid for child in self._children]
        before, window = self._books(pids), Window()
        time.sleep(job.seconds)
        after, others = self._books(pids), window.others()
        took_s, received, used_s, on_nic = (b - a for a, b in zip(before, after, strict=True))
        payload = received * share()
        if not payload:
            raise RunFailed(f"{job.peer} moved nothing over the NIC of {SERVER}")
        return BulkResult(8 * payload / took_s, used_s / payload * 1e9, on_nic / received,
                          others)  # fmt: skip

    def _books(self, pids: list[int]) -> tuple[float, float, float, float]:
        nic = self._fabric.counters()[SERVER, "snic"].received_payload_bytes
        received = sum(size for _, size in self._meter.received())
        return time.monotonic(), received, cpu_s(pids), nic

    def _flowing(self, flows: int) -> None:
        deadline_s = time.monotonic() + START_WITHIN_S
        while sum(size > FLOWING_BYTES for _, size in self._meter.received()) < flows:
            if time.monotonic() > deadline_s:
                raise RunFailed(f"no {flows} flows to {SERVER} within {START_WITHIN_S:g} s")
            time.sleep(CHECK_S)

    def _start_ours(self, job: Bulk) -> Callable[[], float]:
        server = self._ours(SERVER, job.piece_bytes, hosts.Host.receive)
        sender = self._ours("h1", job.piece_bytes, hosts.Host.send, *ALIASES[: job.flows])

        def share() -> float:
            sent = msgspec.json.decode(sender.end(), type=hosts.Sent)
            server.end()
            return sent.payload_bytes / sent.kv_bytes

        return share

    def _start_iperf3(self, job: Bulk) -> Callable[[], float]:
        program = shutil.which("iperf3")
        if program is None:
            raise RunFailed("iperf3 is missing; install the package iperf3")
        listen = [program, "-4", "-s", "-1", "-i", "0"]
        self._start(SERVER, lambda _: hosts.become(listen))
        self._listening()
        send = [program, "-c", self._addresses()[SERVER], "-i", "0", "-t", "600", "-C", "cubic",
                "-P", str(job.flows), "-l", str(job.piece_bytes), "-S", KV_TOS]  # fmt: skip
        self._start("h1", lambda _: hosts.become(send))

        def share() -> float:
            for child in reversed(self._children):
                child.kill()
            return 1.0

        return share

    def _listening(self) -> None:
        deadline_s = time.monotonic() + START_WITHIN_S
        while not self._meter.listening():
            if time.monotonic() > deadline_s:
                raise RunFailed("iperf3 does not listen")
            time.sleep(CHECK_S)

    def _start_nixl(self, job: Bulk) -> Callable[[], float]:
        ends = socket.socketpair()
        for end in ends:
            end.set_inheritable(True)

        def program(role: str, own: socket.socket) -> Callable[[socket.socket], None]:
            def body(control: socket.socket) -> None:
                _use_cubic()
                show_own_nics()
                control.set_inheritable(True)
                hosts.become([
                    self._lab.nixl_python, str(Path(__file__).with_name("nixl_peer.py")), role,
                    "snic", str(job.piece_bytes), str(hosts.POOL_BYTES), str(own.fileno()),
                    str(control.fileno()),
                ])  # fmt: skip

            return body

        before = self._fabric.counters()[SERVER, "snic"].received_bytes
        serving = self._start("h1", program("serve", ends[0]))
        reading = self._start(SERVER, program("read", ends[1]))
        for end in ends:
            end.close()

        def share() -> float:
            moved, exact = map(int, reading.end().split())
            crossed = self._fabric.counters()[SERVER, "snic"].received_bytes - before
            serving.end()
            if not moved or not exact:
                raise RunFailed("what NIXL read is not what the other end holds")
            if crossed < moved:
                raise RunFailed(f"NIXL says {moved} bytes, the NIC counted {crossed}: no TCP")
            return 1.0

        return share

    def _latency(self, job: Latency) -> LatencyResult:
        piece = 1 << 20
        echo = self._ours(SERVER, piece, hosts.Host.receive, port_base=MODEL_BASE)
        server = self._ours(SERVER, piece, hosts.Host.receive, nice=BESIDE_NICE)
        kv = [
            self._ours(
                f"h{number}",
                piece,
                hosts.Host.send,
                *ALIASES[:KV_FLOWS],
                name=f"h{number}-kv",
                nice=BESIDE_NICE,
            )
            for number in range(1, job.kv_senders + 1)
        ]
        self._flowing(job.kv_senders * KV_FLOWS)
        time.sleep(SETTLE_S)
        pinger = self._ours("h1", piece, hosts.Host.ping, SERVER, job.every_s, port_base=MODEL_BASE)
        began_s, before, window = time.monotonic(), self._kv_bytes(), Window()
        time.sleep(job.seconds)
        ended_s, after, others = time.monotonic(), self._kv_bytes(), window.others()
        said = msgspec.json.decode(pinger.end(), type=hosts.Sent)
        for child in (*kv, server, echo):
            child.end()
        trips, networks = (sorted(of[WARM_UP:]) for of in (said.round_trips_s, said.networks_s))
        kv_bps = 8 * (after - before) / (ended_s - began_s)
        return LatencyResult(trips, kv_bps, others, networks_s=networks)

    def _kv_bytes(self) -> int:
        return sum(size for port, size in self._meter.received() if port == KV_PORT)


WARM_UP = 10  # messages: the connection's first, and caches


def _use_cubic() -> None:
    """A program that pins no congestion control gets the one that all others use."""
    program = shutil.which("ip")
    if program is None:
        raise RunFailed("the command ip is missing; install the package iproute2")
    routes = subprocess.run([program, "route", "show", "dev", "snic"], capture_output=True,
                            text=True, check=True).stdout  # fmt: skip
    words = routes.split("\n", 1)[0].split()
    subprocess.run([program, "route", "change", *words, "dev", "snic", "congctl", "cubic"],
                   check=True)  # fmt: skip


def main() -> None:
    """Build what argv[1] says and do its jobs."""
    lab = msgspec.json.decode(sys.argv[1], type=Lab)
    bench = Bench(lab)
    for job in lab.jobs:
        sys.stdout.write(msgspec.json.encode(bench.do(job)).decode() + "\n")
        sys.stdout.flush()


main()
