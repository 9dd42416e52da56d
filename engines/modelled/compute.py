"""The modelled compute: only time passes. Tokens are hashes, so that a reference can tell them."""

from collections.abc import Sequence

import xxhash

from engines.kv import Span
from engines.seams.clock import Clock
from engines.seams.compute import DecodeJob, PrefillJob

ID_BYTES = 2  # a token's content, as long as in the emulated world


def next_content(content: bytes, row: int) -> bytes:
    """What is generated after a row: it depends on the last token and its place."""
    return xxhash.xxh3_64_digest(content[-ID_BYTES:], row)[:ID_BYTES]


class PacedCompute:
    """Implements the seam `Compute`: every call ends when it is due, and never later."""

    def __init__(self, layers: int, token_scale: int, clock: Clock) -> None:
        self._layers = layers
        self._token_scale = token_scale
        self._clock = clock

    async def prefill(
        self, jobs: Sequence[PrefillJob], layer: int, due_s: float
    ) -> dict[int, bytes]:
        """Wait; after the last layer, the next content of final jobs."""
        await self._clock.sleep_until_s(due_s)
        if layer < self._layers - 1:
            return {}
        return {
            job.request: next_content(job.content, job.last // self._token_scale)
            for job in jobs
            if job.final
        }

    async def decode(self, jobs: Sequence[DecodeJob], due_s: float) -> list[bytes]:
        """Wait; the next content of every job."""
        await self._clock.sleep_until_s(due_s)
        scale = self._token_scale
        return [next_content(job.content, job.first // scale + 1) for job in jobs]

    def fingerprint(self, span: Span) -> str:
        """There is no KV to take one of."""
        return ""
