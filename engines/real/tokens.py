"""What `content` means in the emulated world: token ids, and the keys of the blocks they fill.

Content is little-endian uint16 token ids from position 0 on, one for each `token_scale` real
tokens; what is left over of a real length has no id. To everybody else it is opaque bytes.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from engines.errors import TransferError
from engines.layout import KvLayout

ID_BYTES = 2
LAYOUT_VERSION = 1
_OPENING, _TURN = 1, 2


def encode(ids: Sequence[int] | NDArray[np.uint16]) -> bytes:
    """Token ids as content."""
    return np.asarray(ids, dtype="<u2").tobytes()


def decode(content: bytes) -> list[int]:
    """Content as token ids."""
    ids: list[int] = np.frombuffer(content, dtype="<u2").tolist()
    return ids


class Author:
    """Writes the content of prompts: seeded, so that whoever knows the seed can write it again."""

    def __init__(self, seed: int, vocabulary: int, layout: KvLayout) -> None:
        self.seed = seed
        self.vocabulary = vocabulary
        self.layout = layout

    def opening(self, opening_id: int, tokens: int) -> bytes:
        """The first `tokens` real tokens of a shared opening; shorter ones are prefixes."""
        return self._write((_OPENING, opening_id), self.layout.rows(tokens))

    def extend(self, content: bytes, prompt_tokens: int, agent: int, turn: int) -> bytes:
        """Content of a prompt of `prompt_tokens` that begins with `content`; cut if it is longer.

        What is added depends on agent and turn, not on the content before it.
        """
        missing = self.layout.rows(prompt_tokens) - len(content) // ID_BYTES
        if missing <= 0:
            return self.truncate(content, prompt_tokens)
        return content + self._write((_TURN, agent, turn), missing)

    def truncate(self, content: bytes, tokens: int) -> bytes:
        """The content of the first `tokens` real tokens."""
        return content[: self.layout.rows(tokens) * ID_BYTES]

    def _write(self, what: tuple[int, ...], count: int) -> bytes:
        source = np.random.default_rng((self.seed, *what))
        return encode(source.integers(0, self.vocabulary, count, dtype=np.uint16))


class PrefixKeys:
    """Keys of blocks: each binds the model, the layout and every token up to the block's end.

    Remembers the chains of recent contents, whole and every `STRIDE_BLOCKS`, so that a longer
    content costs its new blocks and less than a stride.
    """

    STRIDE_BLOCKS = 64
    MEMO = 8192  # prefixes; at 1 KB of content each this bounds the memory to some 10 MB

    def __init__(self, layout: KvLayout, fingerprint: str) -> None:
        self._block_bytes = layout.rows_per_block * ID_BYTES
        name = (
            f"{LAYOUT_VERSION}|{fingerprint}|{layout.token_scale}|{layout.block_tokens}"
            f"|{layout.layers}|{layout.width}"
        )
        self._root = xxhash.xxh3_64_intdigest(name.encode())
        self._memo: OrderedDict[bytes, NDArray[np.uint64]] = OrderedDict()

    def keys(self, content: bytes, first_block: int, count: int) -> NDArray[np.uint64]:
        """`[count]` keys from `first_block` of a content that starts at position 0.

        Raises TransferError if the content ends before the last of these blocks.
        """
        last = first_block + count
        if first_block < 0 or count < 0 or len(content) < last * self._block_bytes:
            raise TransferError(
                f"content of {len(content)} bytes holds no blocks {first_block} to {last} of "
                f"{self._block_bytes} bytes; pass the content from position 0 to the last block"
            )
        prefix = content[: last * self._block_bytes]
        chain = self._memo.get(prefix)
        if chain is None:
            chain = self._extend(prefix, last)
        else:
            self._memo.move_to_end(prefix)
        return chain[first_block:]

    def _extend(self, prefix: bytes, blocks: int) -> NDArray[np.uint64]:
        size, stride = self._block_bytes, self.STRIDE_BLOCKS
        known = np.empty(0, dtype=np.uint64)
        for at in range((blocks - 1) // stride * stride, 0, -stride):
            start = prefix[: at * size]
            if start in self._memo:
                self._memo.move_to_end(start)
                known = self._memo[start]
                break
        key = int(known[-1]) if len(known) else self._root
        fresh = []
        digest = xxhash.xxh3_64_intdigest
        for at in range(len(known) * size, blocks * size, size):
            key = digest(prefix[at : at + size], key)
            fresh.append(key)
        chain = np.concatenate([known, np.array(fresh, dtype=np.uint64)])
        chain.flags.writeable = False
        for at in range((len(known) // stride + 1) * stride, blocks, stride):
            self._memo[prefix[: at * size]] = chain[:at]
        self._memo[prefix] = chain
        while len(self._memo) > self.MEMO:
            self._memo.popitem(last=False)
        return chain
