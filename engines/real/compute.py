"""The real side of the compute seam: torch computes, then the engine waits for the model's time.

Torch runs inside the event loop, a tile of eight rows at a time, and yields between tiles: a
worker thread was measured to cost more, and to delay the network by a hundred times as much.
"""

import time
from collections.abc import Sequence

import anyio.lowlevel
import msgspec
import xxhash

from engines.errors import ComputeError
from engines.kv import Span
from engines.real.decoder import TILE_ROWS, Decoder, Rows, Tile, Windows
from engines.real.pool import KvPool
from engines.real.tokens import ID_BYTES, decode, encode
from engines.seams.clock import Clock
from engines.seams.compute import DecodeJob, PrefillJob

MOST_IN_PREFILL = 1024


class ComputeStats(msgspec.Struct):
    """What the verdict asks of a host's compute; `lateness_s` is in target seconds."""

    calls: int = 0
    overruns: int = 0
    lateness_s: float = 0.0
    cpu_s: float = 0.0


class TorchCompute:
    """A GPU: one decoder on one pool of HBM, paced by the clock."""

    def __init__(self, decoder: Decoder, pool: KvPool, clock: Clock) -> None:
        wanted = (decoder.shape.layers, decoder.shape.kv_width)
        if wanted != (pool.layout.layers, pool.layout.width):
            raise ComputeError(
                f"pool {pool.name!r} holds {pool.layout.layers} layers of {pool.layout.width} "
                f"values, the decoder writes {wanted[0]} of {wanted[1]}; use decoder.layout()"
            )
        self.stats = ComputeStats()
        self.late: list[tuple[float, float]] = []  # when each was due, and how late it was
        self._decoder = decoder
        self._pool = pool
        self._clock = clock
        self._windows = Windows(pool, decoder.padded_rows)
        self._tiles: dict[int, list[Tile]] = {}

    async def prefill(
        self, jobs: Sequence[PrefillJob], layer: int, due_s: float
    ) -> dict[int, bytes]:
        """Run one layer of every job; after the last layer, the next content of final jobs.

        Raises ComputeError for a job that no prefill can do; see `_begin`.
        """
        if not jobs:  # a peer's step: there is nothing here that could take too long
            await self._clock.sleep_until_s(due_s)
            return {}
        generated: dict[int, bytes] = {}
        final_layer = layer == self._decoder.shape.layers - 1
        started_s = time.thread_time()
        for job in jobs:
            if layer == 0:
                self._begin(job)
            tiles = self._tiles.get(job.request)
            if tiles is None:
                raise ComputeError(
                    f"layer {layer} of request {job.request} was asked for before layer 0; "
                    "run a job's layers in order"
                )
            for tile in tiles:
                self._decoder.layer(tile, self._windows, layer)
                started_s = await self._yield(started_s)
            if final_layer:
                del self._tiles[job.request]
                if job.final:
                    generated[job.request] = encode(self._decoder.next_ids(tiles[-1])[-1:])
        await self._yield(started_s)
        await self._pace(due_s)
        return generated

    async def decode(self, jobs: Sequence[DecodeJob], due_s: float) -> list[bytes]:
        """Run every layer for each job, writing its KV into its slot; returns the next contents.

        Raises ComputeError if a job's content is not one token or its row is out of range.
        """
        generated: list[bytes] = []
        started_s = time.thread_time()
        for start in range(0, len(jobs), TILE_ROWS):
            part = jobs[start : start + TILE_ROWS]
            groups = [self._rows(job.request, job.slot, job.first, 1) for job in part]
            tile = self._decoder.tile(groups, [self._token(job) for job in part])
            for layer in range(self._decoder.shape.layers):
                self._decoder.layer(tile, self._windows, layer)
            generated += [encode([token]) for token in self._decoder.next_ids(tile)]
            started_s = await self._yield(started_s)
        await self._pace(due_s)
        return generated

    def fingerprint(self, span: Span) -> str:
        """A digest of the KV in a span of HBM, to compare with the reference's."""
        return fingerprint(self._pool, span)

    def _begin(self, job: PrefillJob) -> None:
        layout = self._pool.layout
        first, last = layout.rows(job.first), layout.rows(job.last)
        if job.final and first == last:
            # The next token needs the last row's logits; computing that row once more rewrites
            # the bits that are already there.
            first = last - 1
        if first < 0 or last < first or len(job.content) < last * ID_BYTES:
            raise ComputeError(
                f"request {job.request}: tokens {job.first} to {job.last} are rows {first} to "
                f"{last} of {len(job.content) // ID_BYTES} token ids; a prompt needs at least "
                f"{layout.token_scale} tokens, and content from position 0 to its last row"
            )
        ids = decode(job.content[first * ID_BYTES : last * ID_BYTES])
        self._tiles[job.request] = [
            self._decoder.tile(
                [self._rows(job.request, job.slot, row * layout.token_scale, count)],
                ids[row - first :][:count],
            )
            for row in range(first, last, TILE_ROWS)
            for count in [min(TILE_ROWS, last - row)]
        ]
        if len(self._tiles) > MOST_IN_PREFILL:  # turns that failed between two layers
            del self._tiles[next(iter(self._tiles))]

    def _rows(self, request: int, slot: Span, first: int, count: int) -> Rows:
        layout = self._pool.layout
        if slot.region != self._pool.name or slot.slot % layout.block_tokens:
            raise ComputeError(
                f"request {request}: {slot} is no slot of pool {self._pool.name!r}; "
                "compute on KV that lies in this engine's HBM, at a block's boundary"
            )
        rows = Rows(slot.slot // layout.block_tokens, layout.rows(first), count)
        self._windows.require(rows)
        return rows

    def _token(self, job: DecodeJob) -> int:
        if len(job.content) != ID_BYTES:
            raise ComputeError(
                f"request {job.request}: a decode quantum is one token of {ID_BYTES} bytes, "
                f"not {len(job.content)}; pass what prefill or the last decode returned"
            )
        return decode(job.content)[0]

    async def _yield(self, started_s: float) -> float:
        """Account for the CPU since `started_s`, let the network run, and start again."""
        self.stats.cpu_s += time.thread_time() - started_s
        await anyio.lowlevel.checkpoint()
        return time.thread_time()

    async def _pace(self, due_s: float) -> None:
        self.stats.calls += 1
        late_s = self._clock.now_s() - due_s
        if late_s > 0:
            self.stats.overruns += 1
            self.stats.lateness_s += late_s
            self.late.append((due_s, late_s))
        await self._clock.sleep_until_s(due_s)


def fingerprint(pool: KvPool, span: Span) -> str:
    """The digest of a span's bytes, in the order of `KvPool.gather`."""
    return xxhash.xxh3_128_hexdigest(pool.gather(span))
