"""The collective of an engine group: messages of class MODEL at each layer, and lockstep.

It stands for DeepEP's all-to-all. Each engine waits at every layer for all others of its
group; a group of one host exchanges nothing.
"""

from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple

from engines.config import GroupConfig
from engines.messages import Barrier, Join
from engines.seams.clock import Clock
from engines.seams.transport import TrafficClass, Transport
from engines.tasks import Event


class Step(NamedTuple):
    """What a group agreed on: a layer's attention on the slowest GPU, its experts on every GPU."""

    attention_s: float
    expert_s: float
    start_s: float

    @property
    def layer_s(self) -> float:
        """All of a layer: GPUs meet before the experts and after them."""
        return self.attention_s + self.expert_s


class Collective:
    """One engine's part in its group's steps; steps are numbered from 0 without gaps."""

    def __init__(
        self, host: str, group: GroupConfig, clock: Clock, transport: Transport, deadline_s: float
    ) -> None:
        self._peers = [engine for engine in group.engines if engine != host]
        self._load = bytes(group.load_bytes)
        self._clock = clock
        self._transport = transport
        self._deadline_s = deadline_s
        self._joined: dict[int, dict[str, Join]] = {}
        self._passed: dict[tuple[int, int], dict[str, float]] = {}
        self._news = Event()
        self.step = 0

    @property
    def alone(self) -> bool:
        """Whether there is nobody to meet."""
        return not self._peers

    @property
    def called(self) -> bool:
        """Whether a peer has already joined the step that comes next."""
        return bool(self._joined.get(self.step))

    def hear(self, sender: str, message: Join | Barrier) -> None:
        """Note a peer's arrival; it may be a step or a layer ahead of us."""
        if isinstance(message, Join):
            self._joined.setdefault(message.step, {})[sender] = message
        else:
            key = (message.step, message.layer)
            self._passed.setdefault(key, {})[sender] = message.end_s
        self._news.set()

    async def join(self, attention_s: float, expert_s: float, start_s: float) -> Step:
        """Begin the next step with all peers: the slowest attention, and the latest start.

        Experts are spread over the group, whoever brings the tokens (expert parallelism).
        """
        step, self.step = self.step, self.step + 1
        for peer in self._peers:
            mine = Join(step, attention_s, expert_s, start_s)
            self._transport.post(peer, mine, TrafficClass.MODEL)
        await self._until(lambda: len(self._joined.get(step, ())) == len(self._peers), step)
        peers = self._joined.pop(step, {}).values()
        return Step(
            max([attention_s, *(peer.attention_s for peer in peers)]),
            fmean([expert_s, *(peer.expert_s for peer in peers)]),
            max([start_s, *(peer.start_s for peer in peers)]),
        )

    async def barrier(self, layer: int, end_s: float) -> float:
        """Exchange one layer's activations with every peer; returns when the last was through.

        What the messages themselves take is not added: it is part of the modelled layer.
        """
        step = self.step - 1
        for peer in self._peers:
            message = Barrier(step, layer, end_s, self._load)
            self._transport.post(peer, message, TrafficClass.MODEL)
        key = (step, layer)
        await self._until(lambda: len(self._passed.get(key, ())) == len(self._peers), step)
        return max([end_s, *self._passed.pop(key, {}).values()])

    async def _until(self, met: Callable[[], bool], step: int) -> None:
        if met():
            return
        with self._clock.deadline(self._deadline_s, f"the peers of step {step}"):
            while not met():
                self._news.clear()
                await self._news.wait()
