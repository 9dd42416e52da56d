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
from testbed.errors import EnvironmentUnfit, InputError, RunFailed
from testbed.fabric.addresses import NicAddress
from testbed.pytest_plugin.ledger import Ledger
from testbed.yamlfile import nearest

__tracebackhide__ = True  # pytest shows the test's line and the message

DSCP_OF = {str(one).upper(): dscp for one, dscp in DSCP.items()}
POLL_S = 0.05
PROBE_DELAY_S = 1e-6
LISTENING = "0A"  # proc_net_tcp(5)
UNMARKED = "unmarked"


class Network:
    """Hosts, links and counters of a live cluster; programs started here end with the test."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self._programs: list[subprocess.Popen[Any]] = []
        self._captures: dict[str, tuple[Path, ExitStack]] = {}
        self._can_delay: bool | None = None
        self.changes: list[str] = []  # of links, in words
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
        """Start a program in a host; options are those of subprocess.Popen.

        Output that the options send nowhere goes to a file of `logs/` in the test's folder.
        """
        self._of(host)
        with ExitStack() as closing:
            if "stdout" not in options or "stderr" not in options:
                log = closing.enter_context(self._log_of(host, argv[0]).open("ab"))
                options = {"stdout": log, "stderr": log, **options}
            program = self.cluster.popen(host, argv, **options)
        self._programs.append(program)
        return program

    def _log_of(self, host: str, program: str) -> Path:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        return logs / f"{len(self._programs) + 1}-{host}-{Path(program).name}.log"

    def run(
        self, host: str, argv: Sequence[str], *, timeout_s: float = 60.0, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program in a host to its end; its output is text.

        Raises RunFailed with what it said if it fails, unless `check` is off.
        """
        program = self.popen(host, argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = program.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            program.kill()
            raise RunFailed(
                f"{' '.join(argv)} in {host} was not done within {timeout_s:g} s"
            ) from None
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
        link = Link(self.cluster, *link_id(name), self.changes.append)
        link.look()
        return link

    @property
    def can_delay(self) -> bool:
        """Whether links here can be delayed for any program: this kernel has netem.

        Found by delaying a link for a moment, when first asked.
        """
        if self._can_delay is None:
            link = self.cluster.look().links[0].state
            try:
                if not link.delay_s:
                    self.cluster.set_link(link.owner, link.nic, delay_s=PROBE_DELAY_S)
                    self.cluster.set_link(link.owner, link.nic, delay_s=link.delay_s)
                self._can_delay = True
            except EnvironmentUnfit:
                self._can_delay = False
        return self._can_delay

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
        recording = ExitStack()
        recording.enter_context(record(self.cluster, link, path).in_thread())
        self._captures[link] = path, recording
        return path

    def marks_seen(self, link: str) -> dict[str, int]:
        """End the capture of an interface; bytes on the wire that crossed it by mark, both ways.

        By class (MODEL, KV, CTRL), "unmarked" for DSCP 0, "DSCP n" for any other; marks that no
        packet had are not there. Raises InputError without a capture, RunFailed for one with gaps.
        """
        from testbed.capture.summary import summarise

        if link not in self._captures:
            raise InputError(f"{link} was not captured: call capture({link!r}) before the traffic")
        path, recording = self._captures[link]
        recording.close()
        summary = summarise(path)
        if summary.dropped or summary.cut_short:
            raise RunFailed(f"{path} has gaps ({summary.dropped} packets dropped): send less")
        names = {dscp: name for name, dscp in DSCP_OF.items()} | {0: UNMARKED}
        seen: dict[str, int] = {}
        for total in summary.marks:
            name = names.get(total.dscp, f"DSCP {total.dscp}")
            seen[name] = seen.get(name, 0) + total.wire_bytes
        return seen

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
        for _, recording in self._captures.values():
            recording.close()


class Link:
    """One data link of a live cluster."""

    def __init__(
        self, cluster: Cluster, owner: str, nic: str, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._cluster = cluster
        self._tell = tell
        self.owner, self.nic = owner, nic

    def look(self) -> LinkView:
        """Its values and counters now; InputError if there is no such link."""
        return _find(self._cluster.look(), self.owner, self.nic)

    @property
    def rate_bps(self) -> float | None:
        """Its payload rate, None if unshaped."""
        return self.look().state.payload_bps

    def set(self, *, rate: float | str | None = None, delay: float | str | None = None) -> None:
        """Change rate (bit/s or "200Mbps") or delay (seconds or "2ms"); what is None stays.

        Raises EnvironmentUnfit for a delay without netem: `Network.can_delay` tells before.
        """
        self._cluster.set_link(
            self.owner,
            self.nic,
            payload_bps=rate_bps(rate) if isinstance(rate, str) else rate,
            delay_s=time_s(delay) if isinstance(delay, str) else delay,
        )
        values = [
            f"{key} {value}"
            for key, value in (("rate", rate), ("delay", delay))
            if value is not None
        ]
        self._tell(f"{self.owner}:{self.nic} {' '.join(values)}")

    def reset(self) -> None:
        """Back to the topology's values."""
        self._cluster.reset_links(self.owner, self.nic)
        self._tell(f"{self.owner}:{self.nic} reset")


def _find(view: View, owner: str, nic: str) -> LinkView:
    for link in view.links:
        if (link.state.owner, link.state.nic) == (owner, nic):
            return link
    known = [f"{link.state.owner}:{link.state.nic}" for link in view.links]
    raise InputError(f"no data link {owner}:{nic}; {nearest(f'{owner}:{nic}', known, 'link')}")
