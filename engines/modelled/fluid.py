"""Fluid links: what flows over a network is shared max-min fair, class MODEL before class KV.

A *channel* carries the transfers of one class from one host to another, one after the other, as
a connection does. Each link cuts the channels over it to its *share*: what it has left after
channels that other links cut lower, divided by the rest. A change wakes only the links whose
share it moves (after Charny's distributed max-min); when no share moves any more, rates are
max-min fair (Bertsekas and Gallager, Data Networks, section 6.5).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from engines.modelled.loop import VirtualLoop

MODEL, KV = 0, 1  # levels: MODEL is served first
KV_SHARE = 0.01  # of a link that MODEL leaves to KV (testbed/fabric/shaping.py)
QUEUE_S, LEAST_QUEUE_BYTES = 0.010, 256 * 1024  # that a shaper holds, as there
ALIKE = 1e-12  # shares that differ by less, relatively, are the same
DONE_BYTES = 1e-6  # a remainder that is rounding and no bytes

Arrived = Callable[[], object]


class Link:
    """One direction of a link, or a memory's bandwidth: `capacity` in bytes/s."""

    def __init__(self, name: str, capacity: float) -> None:
        self.name = name
        self.capacity = capacity
        self.active: tuple[dict[Channel, None], dict[Channel, None]] = ({}, {})
        self.shares = [inf, inf]
        self.done_bytes = [0.0, 0.0]
        self._feeders: dict[Link, None] = {}
        self._feed = 0.0
        # Whether all that could ever come over it together is less than it takes.
        self.never_binds = True
        self.frame_bytes = 0  # headers, notes and acknowledgements: counted, but they take no time

    def admit(self, links: "tuple[Link, ...]") -> None:
        """A channel over these links exists now: the narrowest other one limits what it brings."""
        others = [link for link in links if link is not self]
        if not others:
            self._feed, self.never_binds = inf, False
            return
        narrow = min(others, key=lambda link: link.capacity)
        if narrow not in self._feeders:
            self._feeders[narrow] = None
            self._feed += narrow.capacity
            self.never_binds = self._feed < self.capacity * (1 - KV_SHARE)

    @property
    def queue_s(self) -> float:
        """What a message waits behind KV without classes: the shaper's queue, if KV fills it.

        A fluid has no queue. Senders fill that of the link which limits them: there it is taken to
        be full, and to be empty elsewhere.
        """
        if any(channel.rate == self.shares[KV] for channel in self.active[KV]):
            return max(QUEUE_S, LEAST_QUEUE_BYTES / self.capacity)
        return 0.0

    def carried_bytes(self, level: int, now_s: float) -> float:
        """Bytes of a level that have crossed it by now."""
        under_way = 0.0
        for channel in self.active[level]:
            under_way += channel.moved_bytes(now_s)
        return self.done_bytes[level] + under_way

    def room(self, level: int) -> float:
        """Bytes/s that a level may use: MODEL all but KV's floor, KV what MODEL leaves."""
        if level == MODEL:
            return self.capacity * (1 - KV_SHARE) if self.active[KV] else self.capacity
        if not self.active[MODEL]:
            return self.capacity
        left = self.capacity - sum(channel.rate for channel in self.active[MODEL])
        return max(left, self.capacity * KV_SHARE)

    def share(self, level: int) -> float:
        """The rate to which this link cuts a level's channels, given what others cut them to."""
        active = self.active[level]
        if not active:
            return inf
        left = self.room(level)
        if len(active) == 1:
            return left
        limits = [channel.limit_beside(self) for channel in active]
        if sum(limits) <= left:  # others cut them to less than there is: the usual case
            return inf
        limits.sort()
        count = len(limits)
        for limit in limits:
            if limit >= left / count:
                return left / count
            left -= limit
            count -= 1
        return inf


class Channel:
    """Transfers of one class from one host to another, first come, first served."""

    def __init__(self, level: int, links: tuple[Link, ...]) -> None:
        self.level = level
        self.links = links
        self.narrowest = min(link.capacity for link in links)
        self.rate = 0.0
        self.finish_s = inf
        self.timer: asyncio.TimerHandle | None = None
        self.queue: deque[tuple[float, Arrived]] = deque()
        self._left_bytes = 0.0
        self._since_s = 0.0

    def begin(self, now_s: float) -> None:
        """Another transfer is the head."""
        self._left_bytes = self.queue[0][0]
        self._since_s = now_s

    def moved_bytes(self, now_s: float) -> float:
        """What the head has moved by now."""
        left = self._left_bytes - self.rate * (now_s - self._since_s)
        return self.queue[0][0] - max(0.0, left)

    def limit_beside(self, link: Link) -> float:
        """What the other links of the path would let through."""
        level, limit = self.level, inf
        for other in self.links:
            if other is not link and other.shares[level] < limit:
                limit = other.shares[level]
        return limit

    def begin_alone(self, now_s: float) -> None:
        """Nobody else is on links that could cut it: the narrowest do."""
        for link in self.links:
            if link.capacity == self.narrowest:
                link.shares[self.level] = self.narrowest
        self.set_rate(now_s, self.narrowest)
        self.set_finish()

    def set_rate(self, now_s: float, rate: float) -> None:
        """Go on at a rate."""
        self._left_bytes -= self.rate * (now_s - self._since_s)
        self._since_s = now_s
        self.rate = rate

    def set_finish(self) -> bool:
        """Work out when the head will be through; whether that moved."""
        left = self._left_bytes if self._left_bytes > DONE_BYTES else 0.0
        before, self.finish_s = self.finish_s, self._since_s + left / self.rate
        return self.finish_s != before


class FluidNetwork:
    """All links; settles once an instant, however much begins and ends in it."""

    def __init__(self, loop: VirtualLoop, capacities: Mapping[str, float], qos: bool) -> None:
        self.loop = loop
        self.links = {name: Link(name, capacity) for name, capacity in capacities.items()}
        self._qos = qos
        self._models = 0  # channels of class MODEL; without any, KV has every link for itself
        self._moved: dict[Link, None] = {}
        self._fresh: dict[Channel, None] = {}
        self._lone: Channel | None = None  # nothing else began or ended since links were settled
        self._settling = False

    def channel(self, model: bool, path: Sequence[str]) -> Channel:
        """A new channel of class MODEL or KV over a path; without classes all are alike."""
        level = MODEL if model and self._qos else KV
        self._models += level == MODEL
        links = tuple(self.links[name] for name in path)
        for link in links:
            link.admit(links)
        return Channel(level, links)

    def queued_s(self, links: Iterable[Link]) -> float:
        """How long a message waits that enters these links now; with classes MODEL never does."""
        return 0.0 if self._qos else sum(link.queue_s for link in links)

    def send(self, channel: Channel, size_bytes: float, arrived: Arrived) -> None:
        """Move bytes over a channel; `arrived` is called in the instant they are all there."""
        channel.queue.append((size_bytes, arrived))
        if len(channel.queue) == 1:
            channel.begin(self.loop.now_s)
            self._enter(channel)

    def _enter(self, channel: Channel) -> None:
        """A channel is busy: all on its links share anew, if it meets anybody there."""
        level, lone = channel.level, True
        for link in channel.links:
            if (link.active[KV] or link.active[MODEL]) and not link.never_binds:
                lone = False
            link.active[level][channel] = None
        self._fresh[channel] = None
        self._settle_soon(channel.links, channel if lone else None)

    def _leave(self, channel: Channel) -> None:
        """A channel is idle: links that it had for itself need no share, the others share anew."""
        level = channel.level
        channel.rate, channel.finish_s = 0.0, inf
        shared = []
        for link in channel.links:
            del link.active[level][channel]
            if link.active[KV] or link.active[MODEL]:
                shared.append(link)
            else:
                link.shares[level] = inf
        if shared:
            self._settle_soon(shared)

    def _settle_soon(self, links: Iterable[Link], lone: Channel | None = None) -> None:
        """Links share anew, when this instant is over; `lone` is all that there is on them."""
        self._lone = None if self._settling else lone
        for link in links:
            if not link.never_binds:
                self._moved[link] = None
        if not self._settling:
            self._settling = True
            self.loop.call_soon(self._settle)

    def _settle(self) -> None:
        now_s = self.loop.now_s
        self._settling = False
        moved, fresh = self._moved, self._fresh
        self._moved, self._fresh = {}, {}
        if self._lone is not None:
            self._lone.begin_alone(now_s)
            return self._set_timer(self._lone)
        if self._models:
            changed = self._relax(moved, MODEL)
            changed.update((c, None) for c in fresh if c.level == MODEL)
            for channel in self._reset(changed, now_s):
                moved.update((link, None) for link in channel.links)
        changed = self._relax(moved, KV)
        changed.update(fresh)  # those of class MODEL have their rate and keep it
        self._reset(changed, now_s)

    def _relax(self, moved: Iterable[Link], level: int) -> dict[Channel, None]:
        """Let shares settle from the links that moved; returns channels whose rate may change."""
        waiting = deque(moved)
        queued = set(waiting)
        changed: dict[Channel, None] = {}
        while waiting:
            link = waiting.popleft()
            queued.discard(link)
            share, before = link.share(level), link.shares[level]
            if share == before or _alike(share, before):
                continue
            link.shares[level] = share
            for channel in link.active[level]:
                changed[channel] = None
                for other in channel.links:
                    if other.never_binds or other is link or other in queued:
                        continue
                    if len(other.active[level]) > 1:  # one alone gets all, whatever others do
                        queued.add(other)
                        waiting.append(other)
        return changed

    def _reset(self, channels: Iterable[Channel], now_s: float) -> list[Channel]:
        """Give channels the rates that their links allow; returns those that got another one."""
        found = []
        for channel in channels:
            if channel.queue:
                before, level = channel.rate, channel.level
                channel.set_rate(now_s, min([link.shares[level] for link in channel.links]))
                if channel.set_finish():
                    self._set_timer(channel)
                if channel.rate != before:
                    found.append(channel)
        return found

    def _set_timer(self, channel: Channel) -> None:
        if channel.timer is not None:
            channel.timer.cancel()
        channel.timer = self.loop.call_at(channel.finish_s, self._through, channel)

    def _through(self, channel: Channel) -> None:
        """The head of a channel is; the next one begins, if there is one."""
        level = channel.level
        size, arrived = channel.queue.popleft()
        for link in channel.links:
            link.done_bytes[level] += size
        if channel.queue:
            channel.begin(channel.finish_s)
            channel.set_finish()
            self._set_timer(channel)
        else:
            self._leave(channel)
        arrived()


def _alike(one: float, other: float) -> bool:
    """Different by rounding alone; an infinite share is like no finite one."""
    return one != inf and other != inf and abs(one - other) <= ALIKE * one
