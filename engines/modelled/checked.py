"""The modelled sides that hold real KV: bytes move with their flows, and tokens come out of them.

Times and order are those of the plain sides, which these extend.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xxhash

from engines.errors import ComputeError, KvDigestMismatch, KvMissing
from engines.kv import Extent, Span
from engines.layout import KvLayout
from engines.modelled.decoder import embed, embed_rows, run, run_layer, token
from engines.modelled.fluid import FluidNetwork
from engines.modelled.regions import DIGEST_BYTES, Kv, Regions, block_keys, digest_blocks
from engines.modelled.transport import FluidTransport, Path, Wires
from engines.seams.clock import Clock
from engines.seams.compute import DecodeJob, PrefillJob
from engines.seams.transport import Write


class CheckedWires(Wires):
    """Wires that carry bytes between the regions of hosts."""

    def __init__(
        self,
        network: FluidNetwork,
        route: Callable[[str, str], Path],
        layout: KvLayout,
        latency_s: float,
        regions: Mapping[str, Regions],
        delay_s: Callable[[str, str], float] | None = None,
    ) -> None:
        super().__init__(network, route, layout, latency_s, delay_s)
        self.regions = regions

    def frame(self, sender: str, peer: str, writes: Sequence[Write]) -> None:
        """Writes arrive: their bytes are there before the first doorbell rings.

        The source is read as late as it could be: whoever freed it too early sends rubbish.
        """
        super().frame(sender, peer, writes)
        for write in writes:
            self.move(sender, peer, write)

    def move(self, sender: str, peer: str, write: Write) -> None:
        """Copy a write's span."""
        self.regions[peer].view(write.target)[:] = self.regions[sender].view(write.source)


class CheckedTransport(FluidTransport):
    """Implements the seam `Transport`; without `verify`, `check` accepts everything."""

    def __init__(self, host: str, wires: CheckedWires, verify: bool) -> None:
        super().__init__(host, wires)
        self._layout = wires.layout
        self._regions = wires.regions[host]
        self._verify = verify

    def copy(self, source: Span, target: Span) -> None:
        """Copy a span within this host's regions."""
        self._regions.view(target)[:] = self._regions.view(source)

    def seal(self, span: Span, content: bytes, first_block: int) -> bytes:
        """Digests, 8 bytes a block, of whole blocks: each binds the block's key and its bytes."""
        count = (span.last - span.first) // self._layout.block_tokens
        keys = block_keys(content, first_block, count, self._layout)
        return digest_blocks(self._regions.view(span), keys)

    def check(self, span: Span, content: bytes, first_block: int, digests: bytes) -> None:
        """Raise KvDigestMismatch, naming the block, unless `seal` would give `digests`."""
        if not self._verify:
            return
        found = self.seal(span, content, first_block)
        if len(found) != len(digests):
            raise KvDigestMismatch(
                f"{len(digests)} bytes of digests came for {len(found) // DIGEST_BYTES} blocks "
                f"of {span}; storage keeps one digest a block"
            )
        for at in range(0, len(found), DIGEST_BYTES):
            if found[at : at + DIGEST_BYTES] != digests[at : at + DIGEST_BYTES]:
                raise KvDigestMismatch(
                    f"block {first_block + at // DIGEST_BYTES} of the prompt, in region "
                    f"{span.region!r} of {self.host}, is not what its key and digest say; "
                    "it was corrupted or put in the wrong place"
                )


class CheckedStore:
    """Implements the seam `Store`: blocks and their digests, by chain and number."""

    def __init__(self, layout: KvLayout, regions: Regions) -> None:
        self._layout = layout
        self._regions = regions
        self.blocks: dict[tuple[int, int], tuple[Kv, bytes]] = {}

    def hold(self, extent: Extent, kv: Kv, digests: bytes) -> None:
        """Keep the blocks of an extent, whose KV this is."""
        rows = self._layout.rows_per_block
        for at in range(extent.count):
            digest = digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]
            block = kv[at * rows : (at + 1) * rows].copy()
            self.blocks[extent.chain, extent.first + at] = block, digest

    async def read(self, extents: Sequence[Extent], into: Span) -> bytes:
        """Put the blocks into a span; returns digests. KvMissing names what is not held."""
        found = [self._block(e.chain, e.first + at) for e in extents for at in range(e.count)]
        if found:
            self._regions.view(into)[:] = np.concatenate([kv for kv, _ in found])
        return b"".join(digest for _, digest in found)

    async def append(self, extent: Extent, source: Span, digests: bytes) -> None:
        """Keep the blocks of a span."""
        self.hold(extent, self._regions.view(source), digests)

    def _block(self, chain: int, number: int) -> tuple[Kv, bytes]:
        try:
            return self.blocks[chain, number]
        except KeyError:
            raise KvMissing(
                f"block {number} of chain {chain} is not in storage; "
                "it was never persisted, or the workload names another opening"
            ) from None


class CheckedCompute:
    """Implements the seam `Compute` on KV in HBM: read when a call begins, ends when it is due."""

    def __init__(self, layout: KvLayout, regions: Regions, clock: Clock) -> None:
        self._layout = layout
        self._regions = regions
        self._clock = clock
        self._states: dict[int, list[int]] = {}  # of requests between two layers

    async def prefill(
        self, jobs: Sequence[PrefillJob], layer: int, due_s: float
    ) -> dict[int, bytes]:
        """Run one layer of every job; after the last layer, the next content of final jobs."""
        found = {}
        for job in jobs:
            first, last = self._rows(job)
            if layer == 0:
                self._states[job.request] = embed_rows(job.content, first, last)
            kv = self._regions.view(job.slot)
            states = run_layer(kv, first, self._states.pop(job.request), layer)
            if layer < self._layout.layers - 1:
                self._states[job.request] = states
            elif job.final:
                found[job.request] = token(states[-1])
        await self._clock.sleep_until_s(due_s)
        return found

    async def decode(self, jobs: Sequence[DecodeJob], due_s: float) -> list[bytes]:
        """Run every layer for each job, writing its KV into its slot; returns the next contents."""
        found = []
        for job in jobs:
            row = self._layout.rows(job.first)
            kv = self._regions.view(job.slot)
            found.append(token(run(kv, row, [embed(job.content, row)])[-1]))
        await self._clock.sleep_until_s(due_s)
        return found

    def fingerprint(self, span: Span) -> str:
        """A digest of the KV in a span of HBM, to compare with the reference's."""
        return fingerprint(self._regions.view(span))

    def _rows(self, job: PrefillJob) -> tuple[int, int]:
        first, last = self._layout.rows(job.first), self._layout.rows(job.last)
        if job.final and first == last:
            # The next token comes out of the last row; once more writes what is there.
            first = last - 1
        if first < 0:
            raise ComputeError(
                f"request {job.request}: a prompt of {job.last} tokens has no emulated one; "
                "lengthen the prompt or lower scale.token_scale"
            )
        return first, last


def fingerprint(kv: Kv) -> str:
    """The digest of a context's KV."""
    return xxhash.xxh3_128_hexdigest(kv.tobytes())
