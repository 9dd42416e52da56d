"""A live network in a test's hands: hosts to run programs in, links, counters."""

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engines.seams.transport import DSCP
from testbed.cli.clusters import link_id, rate_bps, time_s
from testbed.clusters.client import Cluster
from testbed.clusters.protocol import LinkView, View
from testbed.errors import InputError, RunFailed
from testbed.fabric.addresses import NicAddress
from testbed.fabric.wire import KV_CLASS, MODEL_CLASS, ClassCounters
from testbed.yamlfile import nearest

HANDLES = {"MODEL": MODEL_CLASS, "KV": KV_CLASS}
DSCP_OF = {str(one).upper(): dscp for one, dscp in DSCP.items()}
POLL_S = 0.05
LISTENING = "0A"  # proc_net_tcp(5)


class Network:
    """Hosts, links and counters of a live cluster; programs started here end with the test."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self._programs: list[subprocess.Popen[Any]] = []
        self._captures = ExitStack()
        self._nics = {host.name: host.nics for host in cluster.look().hosts}
        self.ledger = Ledger(cluster.look)

    @property
    def hosts(self) -> list[str]:
        """Their names."""
        return list(self._nics)

    def address(self, host: str, nic: str | None = None) -> str:
        """A host's IPv4 address on a NIC; on its first data NIC, if none is named."""
        nics = self._of(host)
        if nic is None:
            nic = next((name for name in nics if name != "mgmt"), "mgmt")
        if nic not in nics:
            raise InputError(f"{host} has no NIC {nic!r}; {nearest(nic, list(nics), 'NIC')}")
        return nics[nic].ip

    def popen(self, host: str, argv: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start a program in a host; options are those of subprocess.Popen."""
        self._of(host)
        program = self.cluster.popen(host, argv, **options)
        self._programs.append(program)
        return program

    def run(
        self, host: str, argv: Sequence[str], *, timeout_s: float = 60.0, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program in a host to its end; its output is text.

        Raises RunFailed with what it said if it fails, unless `check` is off.
        """
        program = self.popen(host, argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = program.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            program.kill()
            raise RunFailed(
                f"{' '.join(argv)} in {host} was not done within {timeout_s:g} s"
            ) from error
        if check and program.returncode != 0:
            raise RunFailed(
                f"{' '.join(argv)} in {host} ended with code {program.returncode}: "
                f"{(err or out).strip()}"
            )
        return subprocess.CompletedProcess(list(argv), program.returncode, out, err)

    def wait_listening(self, host: str, port: int, *, timeout_s: float = 10.0) -> None:
        """Return once a program in the host listens on this TCP port; RunFailed if none does."""
        deadline_s = time.monotonic() + timeout_s
        while not self._listens(host, port):
            if time.monotonic() > deadline_s:
                raise RunFailed(f"nothing listens on {host}:{port} after {timeout_s:g} s")
            time.sleep(POLL_S)

    def _listens(self, host: str, port: int) -> bool:
        table = self.run(host, ["cat", "/proc/self/net/tcp", "/proc/self/net/tcp6"], check=False)
        for line in table.stdout.splitlines():
            words = line.split()
            if len(words) > 3 and words[3] == LISTENING and int(words[1][-4:], 16) == port:
                return True
        return False

    def link(self, name: str) -> "Link":
        """A data link by `HOST:NIC`, like pe0-buf:snic or pe0:uplink."""
        link = Link(self.cluster, *link_id(name))
        link.look()
        return link

    def qos(self, on: bool) -> None:
        """Traffic classes on or off."""
        self.cluster.set_qos(on)

    def mark(
        self, port: int, traffic_class: str | None, *, proto: str = "tcp", host: str | None = None
    ) -> None:
        """Have packets of a port marked MODEL, KV or CTRL, for programs that cannot mark."""
        if traffic_class is not None and traffic_class not in DSCP_OF:
            raise InputError(f"class {traffic_class!r}: use {', '.join(DSCP_OF)}, or None")
        dscp = None if traffic_class is None else DSCP_OF[traffic_class]
        self.cluster.mark(proto, port, dscp, host)

    def capture(self, link: str) -> Path:
        """Record an interface (HOST:IF) until the test ends; returns the pcapng file."""
        from testbed.clusters.recording import record

        path = self.folder / f"{link.replace(':', '-')}.pcapng"
        self._captures.enter_context(record(self.cluster, link, path).in_thread())
        return path

    def _of(self, host: str) -> dict[str, NicAddress]:
        if host not in self._nics:
            raise InputError(f"no host {host!r}; {nearest(host, self.hosts, 'host')}")
        return self._nics[host]

    def close(self) -> None:
        """End the programs that still run, and what is recorded."""
        for program in self._programs:
            if program.poll() is None:
                program.kill()
            program.wait()
            for stream in (program.stdin, program.stdout, program.stderr):
                if stream is not None:
                    stream.close()
        self._captures.close()


class Link:
    """One data link of a live cluster."""

    def __init__(self, cluster: Cluster, owner: str, nic: str) -> None:
        self._cluster = cluster
        self.owner, self.nic = owner, nic

    def look(self) -> LinkView:
        """Its values and counters now; InputError if there is no such link."""
        return _find(self._cluster.look(), self.owner, self.nic)

    @property
    def rate_bps(self) -> float | None:
        """Its payload rate, None if unshaped."""
        return self.look().state.payload_bps

    def set(self, *, rate: float | str | None = None, delay: float | str | None = None) -> None:
        """Change rate (bit/s or "200Mbps") or delay (seconds or "2ms"); what is None stays."""
        self._cluster.set_link(
            self.owner,
            self.nic,
            payload_bps=rate_bps(rate) if isinstance(rate, str) else rate,
            delay_s=time_s(delay) if isinstance(delay, str) else delay,
        )

    def reset(self) -> None:
        """Back to the topology's values."""
        self._cluster.reset_links(self.owner, self.nic)


class Ledger:
    """What each class of each link carried since the test began, or since `reset`."""

    def __init__(self, look: Callable[[], View]) -> None:
        self._look = look
        self._start = _payloads(look())

    def reset(self) -> None:
        """Count from here."""
        self._start = _payloads(self._look())

    def sent(self, link: str, traffic_class: str) -> int:
        """Payload bytes that the link's owner sent in a class, MODEL or KV."""
        return self._counted(link, traffic_class)[0]

    def received(self, link: str, traffic_class: str) -> int:
        """Payload bytes that its owner received in a class."""
        return self._counted(link, traffic_class)[1]

    def assert_class(
        self, link: str, traffic_class: str, *, at_least: int = 1, others_at_most: int | None = None
    ) -> None:
        """AssertionError unless the link carried that many payload bytes in the class, both ways.

        What it may have carried in the other class is a hundredth of it, unless it is given.
        """
        carried = {name: sum(self._counted(link, name)) for name in HANDLES}
        mine = carried.pop(traffic_class)
        ((other, strayed),) = carried.items()
        most = at_least // 100 if others_at_most is None else others_at_most
        table = f"{link} carried {mine} payload bytes of {traffic_class}, {strayed} of {other}"
        assert mine >= at_least, f"{table}; at least {at_least} of {traffic_class} were expected"
        assert strayed <= most, f"{table}; at most {most} of {other} were expected"

    def _counted(self, link: str, traffic_class: str) -> tuple[int, int]:
        if traffic_class not in HANDLES:
            raise InputError(f"class {traffic_class!r}: links tell {' and '.join(HANDLES)} apart")
        now = _payloads(self._look())
        key = (link, HANDLES[traffic_class])
        if key not in now:
            known = sorted({name for name, _ in now})
            raise InputError(f"no shaped link {link!r}; {nearest(link, known, 'link')}")
        before, after = self._start.get(key, (0, 0)), now[key]
        return after[0] - before[0], after[1] - before[1]


def _find(view: View, owner: str, nic: str) -> LinkView:
    for link in view.links:
        if (link.state.owner, link.state.nic) == (owner, nic):
            return link
    known = [f"{link.state.owner}:{link.state.nic}" for link in view.links]
    raise InputError(f"no data link {owner}:{nic}; {nearest(f'{owner}:{nic}', known, 'link')}")


def _payloads(view: View) -> dict[tuple[str, str], tuple[int, int]]:
    """Payload bytes by link and class, sent and received by the link's owner."""
    found = {}
    for link in view.links:
        if link.classes is None:
            continue
        ends = link.classes.sent, link.classes.received
        for handle in HANDLES.values():
            sent, received = (_payload(end.get(handle)) for end in ends)
            found[f"{link.state.owner}:{link.state.nic}", handle] = (sent, received)
    return found


def _payload(counted: ClassCounters | None) -> int:
    if counted is None:
        return 0
    return counted.payload_bytes
