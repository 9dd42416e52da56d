"""What a prefill engine keeps of a turn, of the batch that it runs, and of what it ran."""

import msgspec

from engines.collective import Step
from engines.config import GpuTime
from engines.kv import Span
from engines.messages import Assign, LayerLoaded, Loaded
from engines.waits import Backlog
from scheduler.batch import Chunk
from scheduler.types import Side


class PrefillTurn:
    """One turn on its way through a PE; `ready` once both buffers hold their part of it."""

    def __init__(self, request: int, layers: int) -> None:
        self.request = request
        self.assign: Assign | None = None
        self.granted: Span | None = None
        self.loaded: list[Loaded] = []
        self.loaded_tokens = 0
        self.hbm: Span | None = None
        self.layer_tokens = [0] * layers
        self.layer_at_s = [0.0] * layers
        self.computed_tokens = 0
        self.sends_left = layers
        self.loading = False
        self.runnable = False  # its lane may compute it, as far as KV goes
        self.prompt_tokens = self.hit_tokens = 0

    def begin(self, assign: Assign, lane: "Lane") -> None:
        """Take what the assignment says, and enter its lane."""
        self.assign = assign
        self.lane = lane
        self.prompt_tokens = assign.turn.request.prompt_tokens
        self.hit_tokens = assign.turn.request.hit_tokens
        lane.enter(self)

    def load(self, part: Loaded) -> None:
        """A part of the hit KV is in a buffer's DRAM."""
        self.loaded.append(part)
        self.loaded_tokens += part.last - part.first

    def arrive(self, part: LayerLoaded, at_s: float) -> None:
        """A part of one layer's hit KV is in HBM; with the first layer it can run."""
        self.layer_tokens[part.layer] += part.last - part.first
        self.layer_at_s[part.layer] = at_s
        self.runnable = self.runnable or self.has_layer(0)

    @property
    def ready(self) -> bool:
        """Assigned, a slot in the DE buffer, and all hit KV in DRAM on either side."""
        if self.assign is None or self.granted is None:
            return False
        return self.loaded_tokens == self.hit_tokens

    def lacks(self) -> str:
        """What has to come before it can go on, in words; nothing if that is its lane's turn."""
        if self.assign is None:
            return "its assignment"
        if self.granted is None:
            return "room in the DE buffer to be granted"
        if not self.ready:
            return "its hit blocks to be read"
        missing = [layer for layer in range(len(self.layer_at_s)) if not self.has_layer(layer)]
        return f"the KV of layer {missing[0]}" if self.loading and missing else ""

    def take(self, slot: int) -> None:
        """A place in HBM for the whole prompt."""
        self.hbm = Span("hbm", slot, 0, self.prompt_tokens, 0, len(self.layer_at_s))

    def has_layer(self, layer: int) -> bool:
        return self.layer_tokens[layer] == self.hit_tokens

    @property
    def pending_tokens(self) -> int:
        return self.prompt_tokens - self.hit_tokens - self.computed_tokens

    def missing_ranges(self) -> list[tuple[int, int]]:
        """Tokens that the DE buffer does not have: all but what was read on its side."""
        held = sorted((part.first, part.last) for part in self.loaded if part.side is Side.DE)
        ranges, at = [], 0
        for first, last in [*held, (self.prompt_tokens, self.prompt_tokens)]:
            if first > at:
                ranges.append((at, first))
            at = last
        return ranges


class Lane:
    """One prefill GPU: its turns in the order of their assignment, and their prompts' tokens."""

    def __init__(self, name: str, layers: int) -> None:
        self.name = name
        self.sending = Backlog(layers)
        self.turns: list[PrefillTurn] = []
        self.tokens = 0

    def enter(self, turn: PrefillTurn) -> None:
        """A turn was assigned."""
        self.turns.append(turn)
        self.tokens += turn.prompt_tokens

    def leave(self, turn: PrefillTurn) -> None:
        """A turn is prefilled, or failed."""
        self.turns.remove(turn)
        self.tokens -= turn.prompt_tokens


class Batch(msgspec.Struct, frozen=True):
    """One forward's work: each lane's chunks, in the order of the host's lanes.

    `hungry` says which lanes have turns whose KV is not there; `starved`, that none had any work
    just before.
    """

    lanes: tuple[list[Chunk], ...]
    hungry: tuple[bool, ...]
    starved: bool

    @property
    def chunks(self) -> list[Chunk]:
        """All lanes' together."""
        return [chunk for lane in self.lanes for chunk in lane]

    @property
    def attention_s(self) -> tuple[float, ...]:
        """Seconds of attention of each lane."""
        return tuple(sum(chunk.attention_s for chunk in lane) for lane in self.lanes)

    def expert_s(self, gpu: GpuTime) -> float:
        """Seconds of experts that it brings for each of its lanes, if others brought as many."""
        tokens = sum(chunk.tokens for chunk in self.chunks)
        return tokens * gpu.expert_per_token_s / len(self.lanes)


class Forward(msgspec.Struct, frozen=True):
    """One forward, for the account, in target seconds.

    `compute_s` is the lockstep's time: the attention of the slowest lane of the group, and the
    experts. `lanes_s` is each lane's own attention and its part of the experts, and `hungry_s` what
    lanes lacked of `compute_s` whose turns waited for KV. What remains of the span waited for KV
    as a whole, and the gap before it if `starved`.
    """

    begin_s: float
    end_s: float
    compute_s: float
    lanes_s: tuple[float, ...]
    hungry_s: float
    starved: bool

    @classmethod
    def of(cls, batch: Batch, step: Step, layers: int, span_s: tuple[float, float]) -> "Forward":
        """What a batch came to in a step of the group."""
        compute_s, expert_s = step.layer_s * layers, step.expert_s * layers
        lanes_s = tuple(attention_s + expert_s for attention_s in batch.attention_s)
        lacking = [
            max(0.0, compute_s - lane_s)
            for lane_s, hungry in zip(lanes_s, batch.hungry, strict=True)
            if hungry
        ]
        return cls(*span_s, compute_s, lanes_s, sum(lacking), batch.starved)
