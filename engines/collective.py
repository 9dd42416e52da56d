"""The collective of an engine group: two exchanges of class MODEL at each layer, and lockstep.

It stands for DeepEP's all-to-all: *dispatch* takes tokens to the GPUs of their experts when a
layer's attention is over, *combine* brings them back. Each engine waits at both for all others of
its group; a group of one host exchanges nothing. That engines agree on a step before it begins is
the emulation's own doing, so those messages travel in class CTRL.

What an exchange takes on an idle network is part of the modelled layer. What the network takes
beyond that is a delay of the layer, for everybody: a message says when its sender was there, and
the receiver adds that excess. It comes from the transport, which knows how long the network had a
message; how late processes sent and looked is not in it.
"""

from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple

from engines.config import ExchangeConfig, GroupConfig
from engines.messages import Barrier, Join
from engines.seams.clock import Clock
from engines.seams.transport import TrafficClass, Transport
from engines.tasks import Event

PIECE_BYTES = 1 << 20  # of a load, in one message
ALIKE_S = 1e-9  # an excess below is rounding

Heard = tuple[Barrier, float]  # and how long the network had it


class Step(NamedTuple):
    """What a group agreed on: a layer's attention on the slowest GPU, its experts on every GPU."""

    attention_s: float
    expert_s: float
    start_s: float

    @property
    def layer_s(self) -> float:
        """All of a layer: GPUs meet before the experts and after them."""
        return self.attention_s + self.expert_s


def load_bytes(exchange: ExchangeConfig, tokens: int, combine: bool) -> int:
    """What a host's tokens weigh on their way to each peer, or back."""
    per_token = exchange.combine_bytes if combine else exchange.dispatch_bytes
    return max(exchange.least_bytes, round(tokens * per_token))


class Collective:
    """One engine's part in its group's steps; steps are numbered from 0 without gaps.

    `network_s` has how long the network took for each message of an exchange that came in, and
    `excess_s` by how much that was longer than on an idle one. `layers` were met with the group,
    whose hosts count alike; `delayed` are the numbers of those that the network made longer.
    """

    def __init__(
        self, host: str, group: GroupConfig, clock: Clock, transport: Transport, deadline_s: float
    ) -> None:
        self._peers = [engine for engine in group.engines if engine != host]
        self.alone = not self._peers  # nobody to meet
        self._exchange = group.exchange
        self._clock = clock
        self._transport = transport
        self._deadline_s = deadline_s
        self._joined: dict[int, dict[str, Join]] = {}
        self._passed: dict[tuple[int, int, bool], dict[str, Heard]] = {}
        self._theirs: dict[str, int] = {}  # tokens that peers dispatched to us in this layer
        # When all that we posted would have left, and all that came would have come, if the
        # network had been idle.
        self._clear_s = self._in_clear_s = 0.0
        self._news = Event()
        self.step = 0
        self.network_s: list[float] = []
        self.excess_s: list[float] = []
        self.layers = 0
        self.delayed: list[int] = []

    @property
    def called(self) -> bool:
        """Whether a peer has already joined the step that comes next."""
        return bool(self._joined.get(self.step))

    def way_back_s(self, tokens: int) -> float:
        """What a combine of so many tokens takes on an idle network."""
        size = len(self._peers) * load_bytes(self._exchange, tokens, combine=True)
        return self._exchange.idle_s + size / self._exchange.bytes_per_s

    def hear(self, sender: str, message: Join | Barrier, network_s: float = 0.0) -> None:
        """Note a peer's arrival; it may be a step or a layer ahead of us."""
        if isinstance(message, Join):
            self._joined.setdefault(message.step, {})[sender] = message
        elif message.last:
            self.network_s.append(network_s)
            key = (message.step, message.layer, message.combine)
            self._passed.setdefault(key, {})[sender] = message, network_s
        self._news.set()

    async def join(self, attention_s: float, expert_s: float, start_s: float) -> Step:
        """Begin the next step with all peers: the slowest attention, and the latest start.

        Experts are spread over the group, whoever brings the tokens (expert parallelism).
        """
        step, self.step = self.step, self.step + 1
        if self.alone:
            return Step(attention_s, expert_s, start_s)
        for peer in self._peers:
            mine = Join(step, attention_s, expert_s, start_s)
            self._transport.post(peer, mine)
        await self._until(lambda: len(self._joined.get(step, ())) == len(self._peers), step)
        peers = self._joined.pop(step, {}).values()
        return Step(
            max([attention_s, *(peer.attention_s for peer in peers)]),
            fmean([expert_s, *(peer.expert_s for peer in peers)]),
            max([start_s, *(peer.start_s for peer in peers)]),
        )

    async def dispatch(self, layer: int, end_s: float, tokens: int) -> float:
        """Send `tokens` to the experts' GPUs at `end_s`; returns when all had theirs."""
        if self.alone:
            return end_s
        sizes = dict.fromkeys(self._peers, load_bytes(self._exchange, tokens, combine=False))
        heard = await self._exchange_all(Barrier(self.step - 1, layer, end_s, b""), sizes, tokens)
        self._theirs = {peer: message.tokens for peer, (message, _) in heard.items()}
        return self._met_s(end_s, heard)

    async def combine(self, layer: int, end_s: float) -> float:
        """Bring all tokens back at `end_s`; returns when all had theirs: the layer's end."""
        if self.alone:
            return end_s
        sizes = {
            peer: load_bytes(self._exchange, tokens, combine=True)
            for peer, tokens in self._theirs.items()
        }
        mine = Barrier(self.step - 1, layer, end_s, b"", combine=True)
        met_s = self._met_s(end_s, await self._exchange_all(mine, sizes))
        self.layers += 1
        return met_s

    def account(self) -> dict[str, Any]:
        """What the group's exchanges came to, for the account; nothing if there were none."""
        if self.alone:
            return {}
        return {
            "network_s": self.network_s, "excess_s": self.excess_s, "layers": self.layers,
            "delayed": self.delayed,
        }  # fmt: skip

    async def _exchange_all(
        self, mine: Barrier, sizes: Mapping[str, int], tokens: int = 0
    ) -> dict[str, Heard]:
        """Post to every peer what it gets, and wait for what every peer posts."""
        now_s = self._clock.now_s()
        self._clear_s = max(self._clear_s, now_s) + sum(sizes.values()) / self._exchange.bytes_per_s
        clear_s = self._clear_s - now_s
        for peer, size in sizes.items():
            for load, before in _pieces(size):
                message = Barrier(
                    mine.step, mine.layer, mine.end_s, load, mine.combine,
                    before + len(load) == size, before, tokens, now_s, clear_s,
                )  # fmt: skip
                self._transport.post(peer, message, TrafficClass.MODEL)
        key = (mine.step, mine.layer, mine.combine)
        count = len(self._peers)
        await self._until(lambda: len(self._passed.get(key, ())) == count, mine.step)
        return self._passed.pop(key, {})

    def _met_s(self, end_s: float, heard: Mapping[str, Heard]) -> float:
        """When an exchange was over: with the last to come to it, and with the network's excess.

        On an idle network a message takes at most what we still take in of the last exchange, then
        what its sender has to send, and then what we have to take in, at the links' rate.
        """
        in_s = sum(m.size_bytes for m, _ in heard.values()) / self._exchange.bytes_per_s
        modelled_s = met_s = end_s
        for message, network_s in heard.values():
            before_s = max(0.0, self._in_clear_s - message.posted_s)
            idle_s = self._exchange.idle_s + before_s + message.clear_s + in_s
            excess_s = network_s - idle_s
            self.excess_s.append(max(0.0, excess_s))
            modelled_s = max(modelled_s, message.end_s)
            met_s = max(met_s, message.end_s + (excess_s if excess_s > ALIKE_S else 0.0))
        left_s = max((m.posted_s + m.clear_s for m, _ in heard.values()), default=0.0)
        self._in_clear_s = max(self._in_clear_s, left_s) + in_s
        if met_s > modelled_s and self.layers not in self.delayed[-1:]:
            self.delayed.append(self.layers)
        return met_s

    async def _until(self, met: Callable[[], bool], step: int) -> None:
        if met():
            return
        with self._clock.deadline(self._deadline_s, f"the peers of step {step}"):
            while not met():
                self._news.clear()
                await self._news.wait()


def _pieces(size: int) -> Iterator[tuple[bytes, int]]:
    """A load in messages, each with the bytes before it."""
    for before in range(0, size, PIECE_BYTES):
        yield bytes(min(PIECE_BYTES, size - before)), before
