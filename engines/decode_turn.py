"""What a decode engine keeps of a turn, of a GPU, and of time that it lost."""

from bisect import bisect_left

import msgspec

from engines.config import KvShape
from engines.kv import Slots, Span, address_space, blocks, round_up
from engines.messages import Admit, Assign
from engines.tasks import Life
from engines.waits import Arena, Awaited, Backlog
from scheduler.types import EngineReport


class Paused:
    """A clock that stands still while a step waits for the network; it begins as the real one."""

    def __init__(self) -> None:
        self._at_s: list[float] = []  # on this clock, when it stood still
        self._sums_s: list[float] = [0.0]  # for how long, with all before

    @property
    def sum_s(self) -> float:
        """For how long it has stood still."""
        return self._sums_s[-1]

    def pause(self, at_s: float, seconds: float) -> None:
        """Stand still at a target time that is not before the last pause."""
        self._at_s.append(self.of(at_s))
        self._sums_s.append(self.sum_s + seconds)

    def of(self, at_s: float) -> float:
        """What it shows at a target time that is not before the last pause."""
        return max([at_s - self.sum_s, *self._at_s[-1:]])

    def target_s(self, shown_s: float) -> float:
        """When it shows that; of a pause, its end for all that comes after its begin."""
        return shown_s + self._sums_s[bisect_left(self._at_s, shown_s)]


class Sequence:
    """A turn in decode: what is generated, what is due next, and how far it is persisted.

    `promised_tokens` of HBM are those that it will want, until its KV has a place `in_hbm`.
    """

    in_hbm: Span

    def __init__(self, request: int) -> None:
        self.life = Life()
        self.admit: Awaited[Admit] = Awaited(f"the prompt of turn {request}")
        self.started: Awaited[float] = Awaited(f"the KV of turn {request} in HBM")
        self.computed: Awaited[bool] = Awaited(f"the last token of turn {request}")
        self.persisted: Awaited[bool] = Awaited(f"the last block of turn {request}")
        self.buffer = ""
        self.lane = ""
        self.blocks_kept = 0

    def begin(self, assign: Assign, kv: KvShape) -> None:
        """Take what the assignment says; the prompt itself comes with `admit`."""
        request = self.request = assign.turn.request
        self.lane = assign.decision.de
        self.context_tokens = request.context_tokens
        self.hbm_tokens = round_up(self.context_tokens, kv.block_tokens)
        self.promised_tokens = self.hbm_tokens
        self.position = request.prompt_tokens // kv.quantum_tokens * kv.quantum_tokens
        self.end = self.context_tokens // kv.quantum_tokens * kv.quantum_tokens
        self.blocks_kept += blocks(request.hit_tokens, kv.block_tokens)
        self.blocks_sent = blocks(request.prompt_tokens, kv.block_tokens)
        self.blocks_total = blocks(self.context_tokens, kv.block_tokens)

    def start(self, at_s: float, prompt: Admit, clock: Paused) -> None:
        """The prompt's KV is in HBM; what the prefill generated is processed first."""
        self.start_s = at_s
        self._clock = clock
        self._start_shown_s = clock.of(at_s)
        self.next_content = prompt.content
        self.generated = b""

    def advance(self, content: bytes, kv: KvShape) -> None:
        """A quantum was computed; `content` comes next."""
        self.generated += self.next_content
        self.next_content = content
        self.position += kv.quantum_tokens

    def completed(self, kv: KvShape) -> "Completed":
        """Full Blocks that are complete by now and were not given out before."""
        first, last = self.blocks_sent, blocks(self.position, kv.block_tokens)
        self.blocks_sent = max(first, last)
        source = self.in_hbm.tokens(first * kv.block_tokens, last * kv.block_tokens)
        count = max(0, last - first)
        return Completed(self.request.id, self.lane, first, count, source, self.generated)

    def token_s(self, number: int, tpot_s: float) -> float:
        """When generated token `number` is out; number 1 came from the prefill."""
        return self._clock.target_s(self._shown_s(number, tpot_s))

    def quantum_s(self, kv: KvShape, tpot_s: float) -> float:
        """When the last real token of the next quantum is out, on the clock that pauses."""
        number = self.position + kv.quantum_tokens - self.request.prompt_tokens
        return self._shown_s(number, tpot_s)

    def _shown_s(self, number: int, tpot_s: float) -> float:
        return self._start_shown_s + max(0, number - 1) * tpot_s


class Completed(msgspec.Struct, frozen=True, gc=False):
    """`count` new blocks of a turn from block `first` of its prompt on, where they lie in HBM."""

    request: int
    lane: str
    first: int
    count: int
    source: Span
    generated: bytes


class Lane:
    """One decode GPU: its HBM, and what it holds, counted as turns come and go."""

    def __init__(self, name: str, number: int, hbm_tokens: int, kv: KvShape) -> None:
        block_tokens = kv.block_tokens
        self.name = name
        self.sending = Backlog(kv.layers)
        self.hbm = Arena(Slots(hbm_tokens, block_tokens), f"decode HBM of {name}")
        self.decoding = 0
        self._base = number * address_space(hbm_tokens, block_tokens)
        self._requests = self._tokens = self._promised_tokens = 0

    def enter(self, sequence: Sequence) -> None:
        """A turn was assigned; it will want HBM."""
        self._requests += 1
        self._tokens += sequence.context_tokens
        self._promised_tokens += sequence.promised_tokens

    async def seat(self, sequence: Sequence, layers: int) -> Span:
        """HBM for prompt and generation, in order of asking; give it back with `rise`."""
        place = await self.hbm.take(sequence.hbm_tokens, sequence.request.id)
        self._promised_tokens -= sequence.promised_tokens
        sequence.promised_tokens = 0
        sequence.in_hbm = Span("hbm", self._base + place, 0, sequence.context_tokens, 0, layers)
        return sequence.in_hbm

    def rise(self, sequence: Sequence) -> None:
        """Free a turn's HBM."""
        self.hbm.give(sequence.in_hbm.slot - self._base)

    def leave(self, sequence: Sequence) -> None:
        """A turn ended, be it before it had its HBM."""
        self._requests -= 1
        self._tokens -= sequence.context_tokens
        self._promised_tokens -= sequence.promised_tokens

    def report(self, parked_tokens: int, seen: int) -> EngineReport:
        """What it holds, and HBM that can be promised.

        Turns hold no HBM during their prefill (DualPath section 3, "Decode start"): up to
        `parked_tokens` of them fit into the buffer's DRAM first, but what the buffer cannot park
        will want some as soon as it comes.
        """
        free = self.hbm.free_tokens - max(0, self._promised_tokens - parked_tokens)
        return EngineReport(
            self.name, self._requests, self._tokens, max(0, free), seen, self.sending.tokens
        )
