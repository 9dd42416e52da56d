"""KV words: extents in storage, spans in memory, and the slots of a region.

All in target units: real tokens and blocks of `block_tokens` real tokens. What a token weighs
in bytes, and how it is laid out, is the business of the world's side of the seams.
"""

from collections.abc import Sequence

import msgspec

from engines.errors import CapacityError
from scheduler.ranges import Ranges
from scheduler.types import Extent as Extent  # of storage; the scheduler speaks of them too


class Span(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens `first` to `last` of a slot, layers `layer_first` to `layer_last`, in a region.

    `slot` is the slot's place in the region, in tokens, always at a block's boundary.
    """

    region: str
    slot: int
    first: int
    last: int
    layer_first: int
    layer_last: int

    def tokens(self, first: int, last: int) -> "Span":
        """The same slot and layers, other tokens."""
        return Span(self.region, self.slot, first, last, self.layer_first, self.layer_last)

    def layer(self, layer: int) -> "Span":
        """The same tokens, one layer: the Layer Blocks of DualPath's appendix A.5."""
        return self.part(self.first, self.last, layer)

    def part(self, first: int, last: int, layer: int) -> "Span":
        """Other tokens of the same slot, one layer."""
        return Span(self.region, self.slot, first, last, layer, layer + 1)


def blocks(tokens: int, block_tokens: int) -> int:
    """Whole blocks in `tokens`."""
    return tokens // block_tokens


def round_up(tokens: int, block_tokens: int) -> int:
    """`tokens`, up to a block's boundary."""
    return -(-tokens // block_tokens) * block_tokens


def storage_of(chain: int, storages: Sequence[str]) -> str:
    """The storage host that keeps a chain."""
    return storages[chain % len(storages)]


def address_space(capacity: int, block_tokens: int) -> int:
    """Tokens of addresses over which a memory of `capacity` tokens spreads its slots.

    Engines page their KV, so holes between contexts cost them nothing. Slots are contiguous; half
    as many addresses again as tokens leave no context waiting for a hole of its size. Without
    them, contexts of slightly different lengths never filled more than 87 to 92 % of a memory.
    """
    return capacity * 3 // 2 // block_tokens * block_tokens


class Slots:
    """First-fit slots, each of whole blocks, `capacity` tokens in all at a time.

    `free_tokens` are those that no slot holds. `no_hole` counts how often there were tokens
    enough, but no hole that takes them in one piece.
    """

    def __init__(self, capacity: int, block_tokens: int) -> None:
        self.capacity = self.free_tokens = capacity // block_tokens * block_tokens
        self.no_hole = 0
        self._block_tokens = block_tokens
        self._free = Ranges()
        self._free.add(0, address_space(self.capacity, block_tokens))
        self._held: dict[int, int] = {}

    def require(self, tokens: int) -> None:
        """Raise CapacityError if `tokens` can never fit."""
        need = round_up(tokens, self._block_tokens)
        if need > self.capacity:
            raise CapacityError(
                f"a request needs {need} tokens of a memory that holds {self.capacity}; "
                "give the profile more of it or shorten the workload's contexts"
            )

    def take(self, tokens: int) -> int | None:
        """The place of a new slot; None while none fits, CapacityError if none ever can."""
        need = round_up(tokens, self._block_tokens)
        if need > self.free_tokens:
            self.require(tokens)
            return None
        slot = self._free.take(need)
        if slot is None:
            self.no_hole += 1
            return None
        self._held[slot] = need
        self.free_tokens -= need
        return slot

    def give(self, slot: int) -> None:
        """Free a slot and join it to its free neighbours."""
        length = self._held.pop(slot)
        self.free_tokens += length
        self._free.add(slot, slot + length)
