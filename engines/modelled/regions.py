"""Registered memory of a host in the virtual world, where one is wanted: KV as small numbers.

A region is `[row, layer]` of 8 bytes each, one row an emulated token. Whole blocks lie in one
piece, so a Full Block's bytes are those of its rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from engines.errors import CapacityError, TransferError
from engines.kv import Span
from engines.layout import KvLayout
from engines.modelled.compute import ID_BYTES

DIGEST_BYTES = 8
Kv = NDArray[np.uint64]  # [rows, layers], little-endian


def new_kv(rows: int, layers: int) -> Kv:
    """KV of zeros; memory is only taken where it is written."""
    return np.zeros((rows, layers), dtype="<u8")


class Regions:
    """One host's regions by name, each of so many real tokens."""

    def __init__(self, host: str, layout: KvLayout, pools: Mapping[str, int]) -> None:
        self._host = host
        self._layout = layout
        try:
            self._pools = {
                name: new_kv(layout.rows(tokens), layout.layers) for name, tokens in pools.items()
            }
        except MemoryError as error:
            raise CapacityError(
                f"the memories of {host} are too large to hold real KV here; raise "
                "scale.token_scale or lower the memories' sizes"
            ) from error

    def view(self, span: Span) -> Kv:
        """A span in place, `[rows, layers]`; TransferError if it lies outside its region."""
        pool = self._pools.get(span.region)
        start = self._layout.rows(span.slot)
        first, last = start + self._layout.rows(span.first), start + self._layout.rows(span.last)
        if pool is None or not 0 <= start <= first <= last <= len(pool):
            raise TransferError(
                f"{span} lies outside the regions of {self._host}; "
                "the slot that it belongs to was never taken"
            )
        return pool[first:last, span.layer_first : span.layer_last]


def block_keys(content: bytes, first: int, count: int, layout: KvLayout) -> list[int]:
    """Keys of a prompt's blocks: each binds every token up to the block's end, and the layout."""
    size = layout.rows_per_block * ID_BYTES
    if len(content) < (first + count) * size:
        raise TransferError(
            f"blocks {first} to {first + count} of a prompt of {len(content) // size} whole "
            "blocks have no keys; digests need the content up to their end"
        )
    key = xxhash.xxh3_64_intdigest(repr(layout).encode())
    keys = []
    for number in range(first + count):
        key = xxhash.xxh3_64_intdigest(content[number * size : (number + 1) * size], key)
        keys.append(key)
    return keys[first:]


def digest_blocks(kv: Kv, keys: Sequence[int]) -> bytes:
    """DIGEST_BYTES bytes for each block of `kv`: xxh3-64 of its bytes, seeded with its key."""
    rows = len(kv) // len(keys) if keys else 0
    return b"".join(
        xxhash.xxh3_64_digest(kv[at * rows : (at + 1) * rows].tobytes(), key)
        for at, key in enumerate(keys)
    )
