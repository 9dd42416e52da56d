"""The data links of a fabric while it lives: their rates, delays and classes, at both ends."""

import math
from collections.abc import Iterable, Mapping

import msgspec

from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric.counters import LinkClasses, Offsets
from testbed.fabric.delay import BEHIND_NETEM, delay, redelay
from testbed.fabric.linkstate import LinkId, LinkState
from testbed.fabric.netlink import TC_H_ROOT, Request, Rtnetlink
from testbed.fabric.rates import MIN_BPS
from testbed.fabric.shaping import (
    CLASS_NAMES,
    read_backlog,
    read_class,
    reshape,
    shape,
    switch_classes,
    unshape,
)
from testbed.fabric.wire import ClassCounters
from testbed.yamlfile import nearest

MAX_DELAY_S = 10.0


class Setting(msgspec.Struct, frozen=True):
    """What a link can be set to: payload bit/s, None for unshaped; seconds of delay one way."""

    payload_bps: float | None
    delay_s: float = 0.0


class End(msgspec.Struct, frozen=True):
    """An interface of a link, and a request socket of the namespace it is in."""

    socket: Rtnetlink
    name: str
    index: int


class Link:
    """One link's two ends (the owner's, the switch's) and what they are set to."""

    def __init__(self, link_id: LinkId, nominal: Setting) -> None:
        self.link_id = link_id
        self.nominal = nominal
        self.setting = nominal
        self.ends: tuple[End, ...] = ()
        self.has_netem = nominal.delay_s > 0

    @property
    def parent(self) -> int:
        """The class that the shaper is made under."""
        return BEHIND_NETEM if self.has_netem else TC_H_ROOT

    def state(self) -> LinkState:
        """As it is told to others."""
        return LinkState(
            *self.link_id,
            self.setting.payload_bps,
            self.setting.delay_s,
            self.nominal.payload_bps,
            self.nominal.delay_s,
            "netem" if self.setting.delay_s > 0 else "none",
        )


class Links:
    """All data links, in the topology's order, and the switch for classes."""

    def __init__(
        self, nominal: Mapping[LinkId, Setting], qos: bool, burst_limit_bytes: int | None
    ) -> None:
        self.of = {link_id: Link(link_id, setting) for link_id, setting in nominal.items()}
        self.qos = qos
        self.burst_limit_bytes = burst_limit_bytes
        self._offsets = Offsets()
        self._port_filters: tuple[bytes, ...] = ()

    def find(self, link_id: LinkId) -> Link:
        """The link of that name; raises InputError that names the nearest."""
        link_id = (link_id[0], link_id[1])
        if link_id not in self.of:
            known = [":".join(one) for one in self.of]
            name = ":".join(link_id)
            raise InputError(f"no data link {name}; {nearest(name, known, 'link')}")
        return self.of[link_id]

    def build(self, link_id: LinkId, name: str, index: int) -> list[Request]:
        """Requests that bring one end of a link, just made, to the topology's values."""
        link = self.of.get(link_id)
        if link is None:  # management is neither shaped nor delayed
            return []
        wait = delay(name, index, link.setting.delay_s) if link.has_netem else []
        return [*wait, *self._shape(link, name, index, link.setting)]

    def _shape(self, link: Link, name: str, index: int, new: Setting) -> list[Request]:
        bps, limit = new.payload_bps, self.burst_limit_bytes
        if bps is None:
            return []
        requests = shape(name, index, bps, self.qos, limit, link.parent)
        if self.qos and self._port_filters:
            requests += switch_classes(name, index, bps, True, limit, self._port_filters)
        return requests

    def set(self, link: Link, new: Setting) -> None:
        """Bring both ends to a setting; counters of classes go on."""
        if new == link.setting:
            return
        old, had_netem = link.setting, link.has_netem
        anew = new.delay_s > 0 and not had_netem
        if old.payload_bps is not None and (anew or new.payload_bps is None):
            for end in link.ends:
                told = self._told(link, end, self._raw(end))
                self._offsets.go_on_from((link.link_id, end.name), told, None)
        link.has_netem = had_netem or anew
        for end in link.ends:
            end.socket.send(self._change(link, end, new, anew))
        link.setting = new

    def _change(self, link: Link, end: End, new: Setting, anew: bool) -> list[Request]:
        old, name, index = link.setting, end.name, end.index
        requests: list[Request] = []
        if anew:
            if old.payload_bps is not None:
                requests += unshape(name, index)
            requests += delay(name, index, new.delay_s)
            return requests + self._shape(link, name, index, new)
        if new.delay_s != old.delay_s:
            requests += redelay(name, index, new.delay_s)
        if new.payload_bps == old.payload_bps:
            return requests
        if new.payload_bps is None:
            return requests + unshape(name, index, link.parent)
        if old.payload_bps is None:
            return requests + self._shape(link, name, index, new)
        limit = self.burst_limit_bytes
        return requests + reshape(name, index, new.payload_bps, self.qos, limit)

    def set_qos(self, on: bool) -> None:
        """Classes on or off at every shaped end, without dropping what waits."""
        self.qos = on
        self._renew()

    def classify_ports(self, filters: tuple[bytes, ...]) -> None:
        """Filters that every shaped end asks before those by DSCP (see filters.py)."""
        self._port_filters = filters
        if self.qos:
            self._renew()

    def _renew(self) -> None:
        limit, filters = self.burst_limit_bytes, self._port_filters
        by_socket: dict[Rtnetlink, list[Request]] = {}
        for link in self.of.values():
            bps = link.setting.payload_bps
            if bps is None:
                continue
            for end in link.ends:
                by_socket.setdefault(end.socket, []).extend(
                    switch_classes(end.name, end.index, bps, self.qos, limit, filters)
                )
        for sock, requests in by_socket.items():
            sock.send(requests)

    def _raw(self, end: End) -> dict[str, ClassCounters]:
        read = [read_class(body) for body in end.socket.dump_classes(end.index)]
        return {CLASS_NAMES[handle]: found for handle, found in read if handle in CLASS_NAMES}

    def _shaped(self) -> Iterable[Link]:
        return (link for link in self.of.values() if link.setting.payload_bps is not None)

    def _told(
        self, link: Link, end: End, raw: dict[str, ClassCounters]
    ) -> dict[str, ClassCounters]:
        return self._offsets.told((link.link_id, end.name), raw)

    def class_counters(self) -> dict[LinkId, LinkClasses]:
        """Counters of each class at both ends of every shaped link."""
        return {
            link.link_id: LinkClasses(*(self._told(link, end, self._raw(end)) for end in link.ends))
            for link in self._shaped()
        }

    def go_on_from(self, earlier: Mapping[LinkId, LinkClasses]) -> None:
        """Let the counters of classes be what they were at an earlier look, and count on."""
        for link in self._shaped():
            before = earlier[link.link_id]
            for end, told in zip(link.ends, (before.sent, before.received), strict=True):
                self._offsets.go_on_from((link.link_id, end.name), told, self._raw(end))

    def backlogs(self) -> dict[LinkId, tuple[int, int]]:
        """Bytes that wait at the owner's and at the switch's end of every shaped link."""
        waiting: dict[Rtnetlink, dict[int, int]] = {}
        found = {}
        for link in self._shaped():
            for sock in {end.socket for end in link.ends} - waiting.keys():
                read = (read_backlog(body) for body in sock.dump_qdiscs())
                waiting[sock] = dict(one for one in read if one is not None)
            owner, switch = link.ends
            found[link.link_id] = (
                waiting[owner.socket].get(owner.index, 0),
                waiting[switch.socket].get(switch.index, 0),
            )
        return found


def check_setting(name: str, new: Setting, netem: bool) -> None:
    """Raise InputError for values that make no sense, EnvironmentUnfit for a delay without netem.

    Nothing was changed then.
    """
    bps = new.payload_bps
    if bps is not None and not (math.isfinite(bps) and bps >= MIN_BPS):
        raise InputError(
            f"a rate of {bps:.0f} bit/s for {name} makes no sense; it must be at least "
            f"{MIN_BPS:.0f} bit/s"
        )
    if not 0 <= new.delay_s <= MAX_DELAY_S:
        raise InputError(
            f"a delay of {new.delay_s:g} s for {name} makes no sense; it must be from 0 to "
            f"{MAX_DELAY_S:g} s, one way"
        )
    if new.delay_s > 0 and not netem:
        raise EnvironmentUnfit(
            f"{name} cannot be delayed: this kernel has no netem (sch_netem). The testbed's own "
            "engines can be delayed without it, by due time in their transport: set the delay in "
            "the experiment instead; other programs need a kernel with netem"
        )
