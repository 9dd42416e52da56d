"""The compute seam: what a GPU does, and how long it takes to do it."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from engines.kv import Span


class PrefillJob(msgspec.Struct, frozen=True, gc=False):
    """Compute tokens `first` to `last` of a prompt whose KV lies in `slot` (HBM, all layers).

    `content` is the prompt's opaque content from position 0 on. `final`: the prompt ends here.
    """

    request: int
    slot: Span
    content: bytes
    first: int
    last: int
    final: bool


class DecodeJob(msgspec.Struct, frozen=True, gc=False):
    """Process one decode quantum: the content at real position `first` of the sequence."""

    request: int
    slot: Span
    content: bytes
    first: int


class Compute(Protocol):
    """Paced work: each call returns at `due_s`, or later if the work took longer (an overrun)."""

    async def prefill(
        self, jobs: Sequence[PrefillJob], layer: int, due_s: float
    ) -> dict[int, bytes]:
        """Run one layer of every job; after the last layer, the next content of final jobs."""
        ...

    async def decode(self, jobs: Sequence[DecodeJob], due_s: float) -> list[bytes]:
        """Run every layer for each job, writing its KV into its slot; returns the next contents."""
        ...

    def fingerprint(self, span: Span) -> str:
        """A digest of the KV in a span of HBM, to compare with the reference's."""
        ...
