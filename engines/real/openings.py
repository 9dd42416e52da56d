"""Shared openings, whose KV is really computed once and kept between runs.

A file holds the full blocks of one opening, under a name derived from all that its bytes depend
on: decoder, layout, author, opening and length. It is written aside and renamed, so two runs at
once can do no worse than compute the same twice; its digest binds the name and the bytes.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from engines.errors import KvDigestMismatch, KvMissing
from engines.layout import FLOAT_BYTES, KvLayout
from engines.real.decoder import Decoder, Rows, Windows
from engines.real.pool import KvPool
from engines.real.tokens import LAYOUT_VERSION, Author, decode

SUFFIX = ".kv"


class _Head(msgspec.Struct, frozen=True):
    """First line of a file, padded to `HEAD_BYTES`: `[blocks, layers, rows, width]`, digest."""

    shape: tuple[int, int, int, int]
    digest: str


HEAD_BYTES = 128


def ensure_openings(
    cache_dir: Path,
    decoder: Decoder,
    layout: KvLayout,
    author: Author,
    wanted: Sequence[tuple[int, int]],
) -> list[Path]:
    """The files of openings `(opening_id, tokens)`, computed where missing or damaged."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for opening_id, tokens in wanted:
        path = cache_dir / _name(decoder, layout, author, opening_id, tokens)
        if not _sound(path):
            _write(path, _compute(decoder, layout, author.opening(opening_id, tokens)))
        paths.append(path)
    return paths


def load_opening(path: Path) -> NDArray[np.float32]:
    """`[blocks, layers, rows, width]` of one opening, read-only.

    Raises KvMissing if there is no such file, KvDigestMismatch if it is damaged or misnamed.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise KvMissing(
            f"the cache holds no opening {path.name}; call ensure_openings first"
        ) from None
    try:
        head = msgspec.json.decode(data[:HEAD_BYTES], type=_Head)
        found = memoryview(data)[HEAD_BYTES:]
        sound = (
            len(found) == int(np.prod(head.shape)) * FLOAT_BYTES
            and _digest(path, head.shape, found) == head.digest
        )
    except (msgspec.DecodeError, ValueError):
        sound = False
    if not sound:
        raise KvDigestMismatch(
            f"cached opening {path.name} is damaged; ensure_openings computes it anew"
        )
    return np.frombuffer(found, dtype=np.float32).reshape(head.shape)


def cache_bytes(cache_dir: Path) -> int:
    """What the cached openings weigh on disk, the unfinished ones included."""
    return sum(path.stat().st_size for path in cache_dir.glob(f"*{SUFFIX}*"))


def _sound(path: Path) -> bool:
    try:
        load_opening(path)
    except (KvMissing, KvDigestMismatch):
        return False
    return True


def _compute(decoder: Decoder, layout: KvLayout, content: bytes) -> NDArray[np.float32]:
    per_block = layout.rows_per_block
    ids = decode(content)
    blocks = len(ids) // per_block
    pool = KvPool("opening", layout, (blocks + decoder.padded_rows) * layout.block_tokens)
    if blocks:
        windows = Windows(pool, decoder.padded_rows)
        decoder.run(windows, Rows(0, 0, blocks * per_block), ids[: blocks * per_block])
    return pool.array[:blocks]


def _write(path: Path, values: NDArray[np.float32]) -> None:
    body = np.ascontiguousarray(values).tobytes()
    blocks, layers, rows, width = values.shape
    shape = blocks, layers, rows, width
    head = msgspec.json.encode(_Head(shape, _digest(path, shape, body)))
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(head.ljust(HEAD_BYTES) + body)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _digest(path: Path, shape: tuple[int, ...], body: bytes | memoryview) -> str:
    state = xxhash.xxh3_128(f"{path.name}|{shape}|".encode())
    state.update(body)
    return state.hexdigest()


def _name(decoder: Decoder, layout: KvLayout, author: Author, opening_id: int, tokens: int) -> str:
    words = (
        f"{LAYOUT_VERSION}|{decoder.fingerprint}|{layout}|{author.seed}|{author.vocabulary}"
        f"|{opening_id}|{tokens}"
    )
    return xxhash.xxh3_128_hexdigest(words.encode()) + SUFFIX
