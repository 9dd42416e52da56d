"""A decoder of hashes: shaped like attention, so that every byte of a context's KV matters.

A row's KV at a layer is a hash of what the row has become below it. What it becomes above is a
hash of that and of the layer's KV of all rows up to it, as they lie in memory. The token after a
row is what the row has become above the last layer. So KV that is wrong, in the wrong place,
missing, or not there yet gives other tokens and other KV after it.
"""

from collections.abc import Sequence
from typing import Final

import xxhash

from engines.agents import Author
from engines.layout import KvLayout
from engines.modelled.compute import ID_BYTES
from engines.modelled.regions import Kv, new_kv

_ORDER: Final = "little"


def embed(content: bytes, row: int) -> int:
    """What one token, alone in `content`, is in a row below the first layer."""
    return xxhash.xxh3_64_intdigest(content, row)


def embed_rows(content: bytes, first: int, last: int) -> list[int]:
    """The same for rows `first` to `last` of a content that begins with row 0."""
    return [
        embed(content[row * ID_BYTES : (row + 1) * ID_BYTES], row) for row in range(first, last)
    ]


def run_layer(kv: Kv, first: int, states: Sequence[int], layer: int) -> list[int]:
    """Write one layer's KV of rows from `first` on, and return what they are above it.

    `kv` is a context's, from its first row on; rows before `first` are read.
    """
    attended = xxhash.xxh3_64(kv[:first, layer].tobytes())
    above = []
    for row, state in enumerate(states, first):
        value = xxhash.xxh3_64_intdigest(state.to_bytes(8, _ORDER), layer)
        kv[row, layer] = value
        attended.update(value.to_bytes(8, _ORDER))
        above.append(xxhash.xxh3_64_intdigest(attended.digest(), state))
    return above


def run(kv: Kv, first: int, states: Sequence[int]) -> list[int]:
    """All layers."""
    for layer in range(kv.shape[1]):
        states = run_layer(kv, first, states, layer)
    return list(states)


def token(state: int) -> bytes:
    """The content that follows a row."""
    return state.to_bytes(8, _ORDER)[:ID_BYTES]


class Openings:
    """KV of shared openings, each computed once; shorter ones are their beginnings."""

    def __init__(self, author: Author, layout: KvLayout) -> None:
        self._author = author
        self._layout = layout
        self._known: dict[int, Kv] = {}

    def kv(self, opening: int, tokens: int) -> Kv:
        """The first `tokens` real tokens of an opening: `[rows, layers]`, not to be written."""
        rows = self._layout.rows(tokens)
        known = self._known.get(opening)
        if known is None or len(known) < rows:
            known = self._known[opening] = new_kv(rows, self._layout.layers)
            run(known, 0, embed_rows(self._author.opening(opening, tokens), 0, rows))
        return known[:rows]
