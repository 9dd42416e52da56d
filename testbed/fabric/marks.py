"""Traffic classes for programs that cannot mark their packets: DSCP by port rule."""

from collections.abc import Mapping

import msgspec

from testbed.errors import InputError
from testbed.fabric.addresses import HostNet
from testbed.fabric.filters import DSCP_OF_MODEL, PROTOCOLS, by_port
from testbed.fabric.links import Links
from testbed.fabric.nftables import Rewrite, nftables_work, rewrite_dscp
from testbed.fabric.shaping import KV, MODEL
from testbed.yamlfile import nearest

MAX_PORT, MAX_DSCP = 65535, 63
Key = tuple[str | None, str, int]


class Mark(msgspec.Struct, frozen=True):
    """A rule: what this host (None: every host) sends from or to the port has this DSCP.

    `by` says what does it: "nftables" rewrites the packets; "u32", where the kernel has no
    nftables, puts them into the class of that DSCP at every shaped end and leaves them unmarked.
    """

    host: str | None
    proto: str
    port: int
    dscp: int
    by: str

    @property
    def key(self) -> Key:
        """What there can be one mark of."""
        return self.host, self.proto, self.port


class Marks:
    """All marks of a fabric, and how they are brought about."""

    def __init__(self, hosts: Mapping[str, HostNet], links: Links) -> None:
        self._hosts = hosts
        self._links = links
        self._by: str | None = None
        self._marks: dict[Key, Mark] = {}

    def all(self) -> list[Mark]:
        """All marks, in the order in which they were set."""
        return list(self._marks.values())

    def add(self, host: str | None, proto: str, port: int, dscp: int) -> Mark:
        """Set a mark; raises InputError for what cannot be, and nothing was changed then."""
        self._check(host, proto, port, dscp)
        if self._by is None:
            some = next(iter(self._hosts.values()))
            self._by = "nftables" if nftables_work(some.netns_fd) else "u32"
        mark = Mark(host, proto, port, dscp, self._by)
        marks = {key: one for key, one in self._marks.items() if key != mark.key}
        self._apply({**marks, mark.key: mark}, host)
        return mark

    def remove(self, host: str | None, proto: str, port: int, dscp: int | None) -> None:
        """Take a mark back; raises InputError if there is none such."""
        mark = self._marks.get((host, proto, port))
        if mark is None or dscp not in (None, mark.dscp):
            there = ", ".join(_told(one) for one in self._marks.values()) or "none"
            raise InputError(
                f"no such mark for {proto} port {port} on {host or 'all hosts'}; marks: {there}"
            )
        self._apply({key: one for key, one in self._marks.items() if key != mark.key}, host)

    def _check(self, host: str | None, proto: str, port: int, dscp: int) -> None:
        if host is not None and host not in self._hosts:
            raise InputError(f"no host {host}; {nearest(host, list(self._hosts), 'host')}")
        if proto not in PROTOCOLS:
            raise InputError(f"no ports of protocol {proto!r} can be marked; use tcp or udp")
        if not 1 <= port <= MAX_PORT:
            raise InputError(f"{port} is no port; use 1 to {MAX_PORT}")
        if not 0 <= dscp <= MAX_DSCP:
            raise InputError(f"{dscp} is no DSCP; use 0 to {MAX_DSCP} (MODEL 46, KV 8, CTRL 48)")

    def _apply(self, marks: dict[Key, Mark], host: str | None) -> None:
        if self._by == "u32":
            self._links.classify_ports(self._filters(marks))
        else:
            changed = self._hosts if host is None else [host]
            for name in changed:
                rewrite_dscp(self._hosts[name].netns_fd, _rewrites(marks, name))
        self._marks = marks

    def _filters(self, marks: dict[Key, Mark]) -> tuple[bytes, ...]:
        found: list[bytes] = []
        # The first filter that matches decides: those of one host before those of all.
        for mark in sorted(marks.values(), key=lambda mark: mark.host is None):
            target = MODEL if mark.dscp in DSCP_OF_MODEL else KV
            sources = [None] if mark.host is None else list(self._addresses(mark.host))
            for ip in sources:
                found += by_port(target, mark.proto, mark.port, ip)
        return tuple(found)

    def _addresses(self, host: str) -> list[str]:
        return list(self._hosts[host].addresses.values())


def _rewrites(marks: Mapping[Key, Mark], host: str) -> list[Rewrite]:
    """Those of one host after those of all: the last rule that matches decides."""
    mine = [mark for mark in marks.values() if mark.host in (None, host)]
    mine.sort(key=lambda mark: mark.host is not None)
    return [(mark.proto, mark.port, mark.dscp) for mark in mine]


def _told(mark: Mark) -> str:
    return f"{mark.proto} {mark.port} on {mark.host or 'all hosts'} (DSCP {mark.dscp})"
