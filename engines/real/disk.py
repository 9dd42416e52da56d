"""The real store: Full Blocks in append-only segments, an LMDB index of extents beside them.

An append writes data, then one index transaction; a restart finds what the index names and cuts
off the rest. Nothing is synced to the medium unless `durable`: what must survive is the end of
the process, not of the machine's power, and the page cache survives the process.
"""

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import lmdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.errors import KvMissing, StoreError
from engines.kv import Extent, Span
from engines.layout import KvLayout
from engines.real.digests import DIGEST_BYTES
from engines.real.pool import KvPool
from engines.real.segments import Bytes, Place, Segments

SEGMENT_BYTES: Final = 64 << 20
INDEX_LIMIT_BYTES: Final = 1 << 30  # address space, not memory: some 100 million blocks' digests
_KEY: Final = struct.Struct("!QI")  # chain, first block
_RECORD: Final = struct.Struct("!IIQ")  # blocks, segment, offset; the digests follow
_PLACE: Final = struct.Struct("!IQ")


class _Piece(NamedTuple):
    """Blocks `first` to `first + blocks` of a chain as they lie on disk."""

    first: int
    blocks: int
    place: Place
    digests: bytes


class DiskStore:
    """Implements the seam `Store` in a folder of its own; one process at a time holds it.

    Appending blocks that are held already is idempotent if the digests agree, else StoreError.
    """

    def __init__(
        self,
        folder: Path,
        layout: KvLayout,
        pools: Sequence[KvPool] = (),
        *,
        durable: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
        index_limit_bytes: int = INDEX_LIMIT_BYTES,
    ) -> None:
        if segment_bytes < layout.block_bytes:
            raise StoreError(
                f"segments of {segment_bytes} bytes cannot hold a block of {layout.block_bytes}"
            )
        self._folder = folder
        self._layout = layout
        self._pools = {pool.name: pool for pool in pools}
        self._durable = durable
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._hold()
        self._index = lmdb.open(
            str(folder / "index"), map_size=index_limit_bytes, max_dbs=2, sync=durable
        )
        try:
            self._meta = self._index.open_db(b"meta")
            self._blocks = self._index.open_db(b"blocks")
            self._segments = Segments(folder, segment_bytes, self._open_tail())
        except BaseException:
            self._index.close()
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder free."""
        self._segments.close()
        self._index.close()
        os.close(self._lock)

    async def read(self, extents: Sequence[Extent], into: Span) -> bytes:
        """Read extents one after the other into a span of a local region; returns digests.

        Raises KvMissing, naming chain and block, before anything is read.
        """
        view = memoryview(self._view(into, sum(extent.count for extent in extents)))
        size = self._layout.block_bytes
        with self._index.begin(db=self._blocks) as transaction:
            cursor = transaction.cursor()
            pieces = [piece for extent in extents for piece in self._whole(cursor, extent)]
        done = 0
        for place, count in _merged(pieces, size):
            self._segments.read_into(view[done : done + count * size], place)
            done += count * size
        return b"".join([piece.digests for piece in pieces])

    async def append(self, extent: Extent, source: Span, digests: bytes) -> None:
        """Keep the blocks of a local span as `extent`; returns once a restart will find them."""
        self._keep(extent, self._view(source, extent.count), digests)

    def load(self, chain: int, array: NDArray[np.float32], digests: bytes, first: int = 0) -> None:
        """Keep `[blocks, layers, rows, width]` of a chain from block `first` on."""
        layout = self._layout
        shape = (layout.layers, layout.rows_per_block, layout.width)
        if array.shape[1:] != shape or array.dtype != np.float32:
            raise StoreError(
                f"chain {chain}: an array of {array.dtype}{array.shape} is not float32 blocks "
                f"of {shape}"
            )
        data = np.ascontiguousarray(array).reshape(-1)
        view: Bytes = data.data.cast("B") if data.size else b""
        self._keep(Extent(chain, first, len(array)), view, digests)

    def held(self, extent: Extent) -> int:
        """How many blocks of the extent, from its first on, a read would find."""
        with self._index.begin(db=self._blocks) as transaction:
            end = extent.first
            for piece in self._pieces(transaction.cursor(), extent):
                if piece.first != end:
                    break
                end += piece.blocks
        return end - extent.first

    # Writing

    def _keep(self, extent: Extent, data: Bytes, digests: bytes) -> None:
        if len(digests) != extent.count * DIGEST_BYTES:
            raise StoreError(f"{extent} came with {len(digests)} bytes of digests")
        tail = self._segments.tail
        try:
            with self._index.begin(write=True, db=self._blocks) as transaction:
                for first, count in self._gaps(transaction.cursor(), extent, digests):
                    self._put(transaction, extent, first, count, data, digests)
                if self._segments.tail != tail:
                    place = _PLACE.pack(*self._segments.tail)
                    transaction.put(b"tail", place, db=self._meta)
        except lmdb.Error as error:
            self._segments.tail = tail
            raise StoreError(
                f"the index in {self._folder} cannot take {extent}: {error}; "
                "free disk space or open the store with a larger index limit"
            ) from error
        except BaseException:
            self._segments.tail = tail
            raise

    def _put(
        self,
        transaction: lmdb.Transaction,
        extent: Extent,
        first: int,
        count: int,
        data: Bytes,
        digests: bytes,
    ) -> None:
        """Write blocks that the chain lacks, cut where segments end."""
        size, end = self._layout.block_bytes, first + count
        while first < end:
            if self._segments.room_bytes() < size:
                self._segments.roll()
            fit = min(end - first, self._segments.room_bytes() // size)
            skip = first - extent.first
            place = self._segments.append(data[skip * size : (skip + fit) * size])
            if self._durable:
                self._segments.sync()
            record = _RECORD.pack(fit, *place)
            own = digests[skip * DIGEST_BYTES : (skip + fit) * DIGEST_BYTES]
            transaction.put(_KEY.pack(extent.chain, first), record + own)
            self._segments.tail = Place(place.segment, place.offset + fit * size)
            first += fit

    def _gaps(self, cursor: lmdb.Cursor, extent: Extent, digests: bytes) -> list[tuple[int, int]]:
        """The runs of blocks (first, count) not held yet; StoreError if held ones differ."""
        gaps, at = [], extent.first
        for piece in self._pieces(cursor, extent):
            skip = (piece.first - extent.first) * DIGEST_BYTES
            for start in range(0, len(piece.digests), DIGEST_BYTES):
                held = piece.digests[start : start + DIGEST_BYTES]
                if held != digests[skip + start : skip + start + DIGEST_BYTES]:
                    raise StoreError(
                        f"block {piece.first + start // DIGEST_BYTES} of chain {extent.chain} is "
                        "held with another digest; two sequences share a chain, or KV is not "
                        "reproducible"
                    )
            if piece.first > at:
                gaps.append((at, piece.first - at))
            at = piece.first + piece.blocks
        end = extent.first + extent.count
        return [*gaps, (at, end - at)] if at < end else gaps

    # Looking up

    def _whole(self, cursor: lmdb.Cursor, extent: Extent) -> list[_Piece]:
        pieces, at = [], extent.first
        for piece in self._pieces(cursor, extent):
            if piece.first != at:
                break
            pieces.append(piece)
            at += piece.blocks
        if at != extent.first + extent.count:
            raise KvMissing(
                f"block {at} of chain {extent.chain} is not in {self._folder}; it was never "
                f"persisted, or another storage host has it (asked for {extent})"
            )
        return pieces

    def _pieces(self, cursor: lmdb.Cursor, extent: Extent) -> Iterator[_Piece]:
        """Held parts of an extent in order, each clipped to it; records never overlap."""
        size, end = self._layout.block_bytes, extent.first + extent.count
        start = _KEY.pack(extent.chain, extent.first)
        found = cursor.set_range(start)
        if not found or cursor.key() != start:  # the record before may reach into the extent
            found = (cursor.prev() if found else cursor.last()) or cursor.first()
        while found and extent.count:
            chain, first = _KEY.unpack(cursor.key())
            if chain > extent.chain or (chain == extent.chain and first >= end):
                return
            value = bytes(cursor.value())
            count, segment, offset = _RECORD.unpack_from(value)
            low, high = max(first, extent.first), min(first + count, end)
            if chain == extent.chain and low < high:
                base = _RECORD.size - first * DIGEST_BYTES
                yield _Piece(
                    low,
                    high - low,
                    Place(segment, offset + (low - first) * size),
                    value[base + low * DIGEST_BYTES : base + high * DIGEST_BYTES],
                )
            found = cursor.next()

    def _view(self, span: Span, count: int) -> Bytes:
        pool = self._pools.get(span.region)
        if pool is None:
            raise StoreError(f"no region {span.region!r} here, only {sorted(self._pools)}")
        if span.last == span.first and not count:
            return b""
        view = pool.view(span)
        if view is None or len(view) != count * self._layout.block_bytes:
            raise StoreError(f"{span} is not {count} whole blocks; the store keeps only those")
        return view

    # Opening

    def _hold(self) -> int:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StoreError(
                f"another process has the store in {self._folder} open; give each its own folder"
            ) from None
        return lock

    def _open_tail(self) -> Place:
        """Where data ends; a new folder gets its layout, another layout is refused."""
        layout = msgspec.json.encode(self._layout)
        with self._index.begin(write=True, db=self._meta) as transaction:
            held = transaction.get(b"layout")
            if held is None:
                transaction.put(b"layout", layout)
            elif bytes(held) != layout:
                raise StoreError(
                    f"{self._folder} holds blocks of layout {bytes(held).decode()}, not "
                    f"{layout.decode()}; give each layout its own folder"
                )
            tail = transaction.get(b"tail")
        return Place(*_PLACE.unpack(tail)) if tail else Place(0, 0)


def _merged(pieces: list[_Piece], block_bytes: int) -> Iterator[tuple[Place, int]]:
    """Neighbours on disk become one read."""
    run: tuple[Place, int] | None = None
    for piece in pieces:
        if run is not None:
            (segment, offset), count = run
            if piece.place == (segment, offset + count * block_bytes):
                run = run[0], count + piece.blocks
                continue
            yield run
        run = piece.place, piece.blocks
    if run is not None:
        yield run
