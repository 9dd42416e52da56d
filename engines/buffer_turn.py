"""What a buffer keeps of a turn."""

from engines.config import KvShape
from engines.kv import Extent, Span, blocks
from engines.messages import Assign, LayerDone, Pull
from engines.tasks import Life
from engines.waits import Awaited
from scheduler.prefix import cut
from scheduler.types import ReadExtent, Request


class HeldRead:
    """A part of a prompt, tokens `first` to `last`, that is read on this side."""

    def __init__(self, read: ReadExtent, request: Request, block_tokens: int) -> None:
        self.extents = cut(request.context, read.first, read.count)
        self.first = read.first * block_tokens
        self.last = self.first + read.count * block_tokens
        self.lacking: list[Extent] = []  # what storage has to send of it
        self.queued_tokens = 0  # of these


class HeldTurn:
    """What a buffer knows of one turn; messages may come before the assignment that names it."""

    def __init__(self, request: int) -> None:
        self.request = request
        self.life = Life()
        self.pulled: Awaited[str] = Awaited(f"the pulls of turn {request}'s KV")
        self.complete: Awaited[LayerDone] = Awaited(f"the last layer of turn {request}")
        self.admitted: Awaited[Span] = Awaited(f"room in decode HBM for turn {request}")
        self.prompt_kept: Awaited[int] = Awaited(f"turn {request}'s new prompt to be kept")
        self.kept: Awaited[bool] = Awaited(f"the last block of turn {request} to be kept")
        self.reads: list[HeldRead] = []
        self.roomless_tokens = 0  # of its reads, while it has no room in a DE buffer's DRAM
        self.to_pull_tokens = 0
        self.pulls: list[Pull] = []
        self.tokens_due = self.tokens_here = 0
        self.chain = self.blocks_left = 0
        self.content = b""
        self.final: LayerDone | None = None

    def expect(self, assign: Assign, kv: KvShape) -> None:
        """On the DE side: what prefill and decode will send, and what decode's blocks continue."""
        request = assign.turn.request
        self.chain, self.content = request.chain, assign.turn.content
        self.tokens_due = (request.prompt_tokens - self.to_pull_tokens) * kv.layers
        end = blocks(request.context_tokens, kv.block_tokens)
        self.blocks_left = end - blocks(request.prompt_tokens, kv.block_tokens)
        self.count_kept(0)

    def hear_pull(self, prefill: str, pull: Pull) -> None:
        """The PE asks for a part of what was read; it asks for all of it at once."""
        self.pulls.append(pull)
        self.to_pull_tokens -= pull.last - pull.first
        if self.to_pull_tokens == 0:
            self.pulled.set(prefill)

    def count_kept(self, count: int) -> None:
        """So many more generated blocks are in storage."""
        self.blocks_left -= count
        if self.blocks_left == 0:
            self.kept.set(True)
