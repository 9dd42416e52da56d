"""A small latent-attention decoder whose numbers do not depend on who shares a batch.

Multi-head latent attention (MLA) in its absorbed form: a token's KV at a layer is one row,
`latent` values that serve as both key and value followed by `rope` rotated key values, and
queries meet it in that space. Weights are random but fixed by the seed.

Equal work must give equal bits, or a digest could not be compared with a reference. Matrix
kernels choose their order of summation by shape, so every shape here is fixed: tiles of eight
rows, and attention over `padded_rows` rows of which those beyond the position are masked.
What is left to the library is checked at start-up (`self_check`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from engines.errors import ComputeError
from engines.layout import DecoderShape, KvLayout
from engines.real.pool import KvPool

TILE_ROWS = 8
ARITHMETIC_VERSION = 1
# Gains that make every KV row matter to every token: with them, a swap of two rows changes a
# greedy token in most trials; with tame ones it would hide below the gap of the best two logits.
SCORE_STD = 1.4
BIAS_STD = 1.4
ATTENTION_GAIN = 2.0
SINE_GAIN = 8.0


class Rows(msgspec.Struct, frozen=True):
    """`count` consecutive emulated tokens from row `first` of the slot that starts at `block`."""

    block: int
    first: int
    count: int


class Tile:
    """At most eight rows on their way through the layers, with what depends on their position."""

    __slots__ = ("bias", "cos", "groups", "hidden", "rows", "sin")

    def __init__(
        self, groups: list[Rows], hidden: Tensor, cos: Tensor, sin: Tensor, bias: Tensor
    ) -> None:
        self.groups = groups
        self.rows = sum(group.count for group in groups)
        self.hidden = hidden  # [8, d_model]
        self.cos = cos  # [8, 1, rope]
        self.sin = sin
        self.bias = bias  # [8 * heads, padded_rows]


class Windows:
    """A pool as attention reads it: `padded_rows` rows of a slot at one layer.

    In place where a block is one row and the window ends inside the pool; else the rows are
    copied into a scratch of the same strides, so that the kernels see the same shape.
    """

    def __init__(self, pool: KvPool, padded_rows: int) -> None:
        self.pool = pool
        self.layout = pool.layout
        self.padded_rows = padded_rows
        self._flat = torch.from_numpy(pool.array).view(-1)
        self._scratch: list[Tensor] = []

    def write(self, rows: Rows, layer: int, values: NDArray[np.float32]) -> None:
        """Store KV `[count, width]` of some rows at one layer."""
        per_block = self.layout.rows_per_block
        if per_block == 1:
            first = rows.block + rows.first
            self.pool.array[first : first + rows.count, layer, 0] = values
            return
        position = np.arange(rows.first, rows.first + rows.count)
        self.pool.array[rows.block + position // per_block, layer, position % per_block] = values

    def at(self, rows: Rows, layer: int, place: int) -> Tensor:
        """`[padded_rows, width]` of the slot; `place` in the tile says which scratch to use."""
        layout = self.layout
        stride = layout.layers * layout.width
        if layout.rows_per_block == 1 and rows.block + self.padded_rows <= self.pool.blocks:
            start = rows.block * stride + layer * layout.width
            return self._flat.as_strided((self.padded_rows, layout.width), (stride, 1), start)
        while len(self._scratch) <= place:
            self._scratch.append(torch.zeros(self.padded_rows, layout.layers, layout.width))
        window = self._scratch[place][:, layer]
        last = rows.first + rows.count
        blocks = -(-last // layout.rows_per_block)
        held = self.pool.array[rows.block : rows.block + blocks, layer]
        window[:last] = torch.from_numpy(held.reshape(-1, layout.width)[:last])
        return window

    def require(self, rows: Rows) -> None:
        """Raise ComputeError unless the rows lie in the pool and in the padded length."""
        last = rows.first + rows.count
        if rows.block < 0 or rows.first < 0 or last > self.padded_rows:
            raise ComputeError(
                f"{rows} is beyond the {self.padded_rows} rows that attention is padded to; "
                "raise padded_rows to the longest context of the experiment"
            )
        if rows.block + -(-last // self.layout.rows_per_block) > self.pool.blocks:
            raise ComputeError(
                f"{rows} ends outside pool {self.pool.name!r} of {self.pool.blocks} blocks; "
                "the slot was never taken"
            )


class _Layer(NamedTuple):
    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor


class Decoder:
    """Weights, tables and buffers; one at a time of its methods may run.

    `attention_rows` rows of one sequence share an attention kernel; 1 is slower and for
    libraries whose results depend on it.
    """

    def __init__(
        self, shape: DecoderShape, padded_rows: int, attention_rows: int = TILE_ROWS
    ) -> None:
        torch.set_num_threads(1)  # more would spin on the cores that other hosts need
        self.shape = shape
        self.padded_rows = padded_rows
        self.attention_rows = attention_rows
        self._weigh()
        self._tabulate()
        self._allocate()
        self.fingerprint = self._probe()

    def layout(self, token_scale: int, block_tokens: int) -> KvLayout:
        """The KV layout of this decoder's tokens."""
        return KvLayout(token_scale, block_tokens, self.shape.layers, self.shape.kv_width)

    @torch.inference_mode()
    def tile(self, groups: Sequence[Rows], ids: Sequence[int]) -> Tile:
        """Rows of one or more slots, at most eight in all, and their token ids."""
        split = [part for group in groups for part in self._split(group)]
        places = [row for group in groups for row in range(group.first, group.first + group.count)]
        if not 0 < len(places) <= TILE_ROWS or len(ids) != len(places):
            raise ComputeError(
                f"a tile of {len(places)} rows got {len(ids)} token ids; "
                f"give 1 to {TILE_ROWS} rows and one id for each"
            )
        if max(ids) >= self.shape.vocabulary or max(places) >= self.padded_rows:
            raise ComputeError(
                f"token ids up to {max(ids)} at rows up to {max(places)} exceed the vocabulary of "
                f"{self.shape.vocabulary} or the padded length of {self.padded_rows} rows"
            )
        empty = [0] * (TILE_ROWS - len(places))
        at = torch.tensor([*places, *empty])
        bias = self._bias.index_select(0, at.repeat_interleave(self.shape.heads))
        hidden = self._embedding.index_select(0, torch.tensor([*ids, *empty]))
        return Tile(
            split, hidden, self._cos.index_select(0, at), self._sin.index_select(0, at), bias
        )

    @torch.inference_mode()
    def layer(self, tile: Tile, windows: Windows, layer: int) -> None:
        """Take a tile through one layer: write its KV, then attend to its slots."""
        weights = self._layers[layer]
        normal = torch.layer_norm(tile.hidden, self._normal_shape)
        torch.mm(normal, weights.qkv, out=self._qkv)
        self._straight.mul_(tile.cos).addcmul_(self._turned, tile.sin)
        self._query.copy_(self._query_part)
        self._attend(tile, windows, layer)
        hidden = torch.addmm(tile.hidden, self._mixed, weights.out)
        normal = torch.layer_norm(hidden, self._normal_shape)
        torch.mm(normal, weights.up, out=self._wide)
        tile.hidden = torch.addmm(hidden, self._wide.sin_(), weights.down)

    @torch.inference_mode()
    def logits(self, tile: Tile) -> NDArray[np.float32]:
        """`[rows, vocabulary]` of a tile that is through its last layer; valid until the next."""
        normal = torch.layer_norm(tile.hidden, self._normal_shape)
        torch.mm(normal, self._head, out=self._logits)
        values: NDArray[np.float32] = self._logits_array[: tile.rows]
        return values

    def next_ids(self, tile: Tile) -> list[int]:
        """The greedy next token of each row; of equal logits the lowest id wins."""
        logits = self.logits(tile)
        ids = logits.argmax(axis=1)
        if not np.isfinite(logits[np.arange(tile.rows), ids]).all():
            raise ComputeError(
                f"logits of {tile.groups} are not finite: the KV in or beside their slots "
                "is not what a decoder wrote; check what was last written to this memory"
            )
        return [int(token) for token in ids]

    def run(self, windows: Windows, rows: Rows, ids: Sequence[int]) -> list[int]:
        """Take any number of consecutive rows through all layers; returns each row's next id."""
        windows.require(rows)
        found: list[int] = []
        for start in range(0, rows.count, TILE_ROWS):
            count = min(TILE_ROWS, rows.count - start)
            part = Rows(rows.block, rows.first + start, count)
            tile = self.tile([part], ids[start : start + count])
            for layer in range(self.shape.layers):
                self.layer(tile, windows, layer)
            found += self.next_ids(tile)
        return found

    def _attend(self, tile: Tile, windows: Windows, layer: int) -> None:
        heads, latent = self.shape.heads, self.shape.latent
        spans: list[tuple[tuple[Tensor, ...], Tensor]] = []
        row = 0
        for place, group in enumerate(tile.groups):
            windows.write(group, layer, self._kv_array[row : row + group.count])
            window = windows.at(group, layer, place)
            views = self._views[row, row + group.count]
            query, scores = views[0], views[1]
            bias = tile.bias[row * heads : (row + group.count) * heads]
            torch.addmm(bias, query, window.t(), out=scores)
            spans.append((views, window))
            row += group.count
        torch.softmax(self._scores[: row * heads], -1, out=self._shares[: row * heads])
        for views, window in spans:
            torch.mm(views[2], window[:, :latent], out=views[3])

    def _split(self, group: Rows) -> list[Rows]:
        if group.count <= self.attention_rows:
            return [group]
        return [
            Rows(group.block, first, min(self.attention_rows, group.first + group.count - first))
            for first in range(group.first, group.first + group.count, self.attention_rows)
        ]

    def _weigh(self) -> None:
        shape = self.shape
        source = torch.Generator().manual_seed(shape.seed)

        def random(rows: int, columns: int, std: float) -> Tensor:
            return torch.randn(rows, columns, generator=source) * std

        def layer() -> _Layer:
            unit = shape.d_model**-0.5
            query = random(shape.d_model, shape.heads * shape.kv_width, unit)
            query *= SCORE_STD * shape.kv_width**-0.5
            plain = torch.cat([query, random(shape.d_model, shape.kv_width, unit)], 1)
            # The rotary turn needs (-b, a) beside (a, b): both come out of one product.
            rope = plain.view(shape.d_model, -1, shape.kv_width)[:, :, shape.latent :]
            low, high = rope.chunk(2, dim=2)
            turned = torch.cat([-high, low], 2).reshape(shape.d_model, -1)
            mixed = shape.heads * shape.latent
            return _Layer(
                torch.cat([plain, turned], 1).contiguous(),
                random(mixed, shape.d_model, ATTENTION_GAIN * mixed**-0.5),
                random(shape.d_model, shape.hidden, SINE_GAIN * unit),
                random(shape.hidden, shape.d_model, shape.hidden**-0.5),
            )

        self._embedding = random(shape.vocabulary, shape.d_model, 1.0)
        self._layers = [layer() for _ in range(shape.layers)]
        self._head = random(shape.d_model, shape.vocabulary, shape.d_model**-0.5)
        self._relative = torch.randn(self.padded_rows, generator=source) * BIAS_STD

    def _tabulate(self) -> None:
        shape, rows = self.shape, torch.arange(self.padded_rows)
        pace = 10000.0 ** (-torch.arange(0, shape.rope, 2) / shape.rope)
        angle = torch.outer(rows.float(), pace).repeat(1, 2).view(-1, 1, shape.rope)
        self._cos, self._sin = angle.cos(), angle.sin()
        # A bias by distance, as in T5: rotated keys carry their own position, so without it
        # attention would not notice that two rows had changed places.
        distance = rows.view(-1, 1) - rows
        self._bias = self._relative[distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)

    def _allocate(self) -> None:
        shape, heads = self.shape, self.shape.heads
        plain = (heads + 1) * shape.kv_width
        self._normal_shape = [shape.d_model]
        self._qkv = torch.zeros(TILE_ROWS, plain + (heads + 1) * shape.rope)
        every = self._qkv[:, :plain].view(TILE_ROWS, heads + 1, shape.kv_width)
        self._straight = every[:, :, shape.latent :]
        self._turned = self._qkv[:, plain:].view(TILE_ROWS, heads + 1, shape.rope)
        self._query_part = every[:, :heads]
        self._kv_array: NDArray[np.float32] = self._qkv.numpy()[:, heads * shape.kv_width : plain]
        self._query = torch.zeros(TILE_ROWS, heads, shape.kv_width)
        self._scores = torch.zeros(TILE_ROWS * heads, self.padded_rows)
        self._shares = torch.zeros_like(self._scores)
        mixed = torch.zeros(TILE_ROWS * heads, shape.latent)
        self._mixed = mixed.view(TILE_ROWS, heads * shape.latent)
        self._wide = torch.zeros(TILE_ROWS, shape.hidden)
        self._logits = torch.zeros(TILE_ROWS, shape.vocabulary)
        self._logits_array: NDArray[np.float32] = self._logits.numpy()
        query = self._query.view(-1, shape.kv_width)
        self._views = {
            (first, last): tuple(
                buffer[first * heads : last * heads]
                for buffer in (query, self._scores, self._shares, mixed)
            )
            for first in range(TILE_ROWS)
            for last in range(first + 1, TILE_ROWS + 1)
        }

    def _probe(self) -> str:
        """A name for these numbers: shape, seed, version, and the bits this CPU computes."""
        pool = KvPool("probe", self.layout(1, 1), self.padded_rows)
        windows = Windows(pool, self.padded_rows)
        ids = self.run(windows, Rows(0, 0, 12), range(12))
        words = f"{ARITHMETIC_VERSION}|{self.shape}|{self.padded_rows}|{ids}|"
        return xxhash.xxh3_128_hexdigest(words.encode() + pool.array.tobytes())


def checked_decoder(shape: DecoderShape, padded_rows: int, layout: KvLayout) -> Decoder:
    """A decoder that passed its self-check here, if need be with the slower attention.

    Raises ComputeError if this CPU gives equal work equal bits in neither way.
    """
    decoder = Decoder(shape, padded_rows)
    try:
        self_check(decoder, layout)
    except ComputeError:
        decoder = Decoder(shape, padded_rows, attention_rows=1)
        self_check(decoder, layout)
    return decoder


def self_check(decoder: Decoder, layout: KvLayout) -> None:
    """Raise ComputeError unless this CPU and library give equal work equal bits.

    Runs in memory of its own: the same eight rows in many splits, alone and beside others, at
    a pool's start and at its end. Takes about 60 ms.
    """
    rows = decoder.padded_rows - 1
    slot = -(-rows // layout.rows_per_block)  # the last slot's window runs past the pool's end
    own = KvPool("self-check", layout, 3 * slot * layout.block_tokens)
    source = np.random.default_rng(0)
    noise = source.standard_normal((slot, *own.array.shape[1:]), dtype=np.float32)
    for start in range(3):
        own.array[start * slot : (start + 1) * slot] = noise
    ids = [int(token) for token in source.integers(0, decoder.shape.vocabulary, TILE_ROWS)]
    windows = Windows(own, decoder.padded_rows)
    first = rows - TILE_ROWS
    expected = decoder.run(windows, Rows(0, first, TILE_ROWS), ids)
    truth = own.array[:slot].copy()
    for sizes in ((8,), (7, 1), (2, 6), (3, 5), (4, 4), (1,) * 8):
        for start in (slot, 2 * slot):
            own.array[start : start + slot] = noise
            found: list[int] = []
            for size in sizes:
                done = len(found)
                part = Rows(start, first + done, size)
                found += decoder.run(windows, part, ids[done : done + size])
            _same(decoder, truth, own.array[start : start + slot], expected, found)
    groups = [Rows(slot, first, 1), Rows(0, first + 6, 1), Rows(2 * slot, first + 1, 1)]
    tile = decoder.tile(groups, [ids[0], ids[6], ids[1]])
    for layer in range(decoder.shape.layers):
        decoder.layer(tile, windows, layer)
    together = [expected[0], expected[6], expected[1]]
    for start in range(3):
        kept = own.array[start * slot : (start + 1) * slot]
        _same(decoder, truth, kept, together, decoder.next_ids(tile))


def _same(
    decoder: Decoder,
    truth: NDArray[np.float32],
    kept: NDArray[np.float32],
    expected: list[int],
    found: list[int],
) -> None:
    if expected != found or truth.tobytes() != kept.tobytes():
        raise ComputeError(
            "the decoder's numbers depend on how its rows are batched on this CPU with torch "
            f"{torch.__version__}, so KV could not be checked; build it with attention_rows=1 "
            f"(now {decoder.attention_rows}) or use another build of torch"
        )
