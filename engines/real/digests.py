"""Digests of Full Blocks: xxh3-64 of a block's bytes, seeded with the block's key.

Key and bytes are bound together, so a block of the right content in the wrong place fails like
a corrupt one.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

DIGEST_BYTES = 8


class BlockKeys(Protocol):
    """Keys of a prompt's blocks: model, prefix and layout in 64 bits (engines/real/tokens.py)."""

    def keys(
        self, content: bytes, first_block: int, count: int
    ) -> Sequence[int] | NDArray[np.uint64]:
        """Keys of blocks `first_block` to `first_block + count` of the prompt `content`."""
        ...


def digest_blocks(
    data: memoryview, block_bytes: int, keys: Sequence[int] | NDArray[np.uint64]
) -> bytes:
    """DIGEST_BYTES bytes, big-endian, for each block of `data`; one key a block."""
    digest = xxhash.xxh3_64_digest
    seeds: list[int] = np.asarray(keys, dtype=np.uint64).tolist()
    starts = range(0, len(data), block_bytes)
    return b"".join(
        [
            digest(data[start : start + block_bytes], seed)
            for start, seed in zip(starts, seeds, strict=True)
        ]
    )


def first_difference(found: bytes, expected: bytes) -> int:
    """The first block whose digests differ; the inputs are of one length and not equal."""
    differ = np.frombuffer(found, dtype=">u8") != np.frombuffer(expected, dtype=">u8")
    return int(np.argmax(differ))
