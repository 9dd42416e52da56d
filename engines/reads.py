"""A buffer's reads: which storage host is asked for what, and what has come of an answer."""

from collections.abc import Iterable

from engines.config import BufferConfig
from engines.kv import Extent, Span, storage_of
from engines.messages import Read, ReadDigests
from engines.waits import Awaited


class Arrival:
    """A read's answer: storage's word, and the blocks unless it has none, in whatever order."""

    def __init__(self, read: Read, storage: str) -> None:
        self.read = read
        self.whole: Awaited[ReadDigests] = Awaited(f"{storage}'s blocks for turn {read.request}")
        self._said: ReadDigests | None = None
        self._come = False

    def come(self) -> None:
        """The blocks are in place."""
        self._come = True
        if self._said is not None:
            self.whole.set(self._said)

    def say(self, answer: ReadDigests) -> None:
        """Their digests, or why there are none."""
        self._said = answer
        if self._come or answer.error:
            self.whole.set(answer)


def parts_of(
    request: int, extents: Iterable[Extent], span: Span, config: BufferConfig
) -> list[tuple[str, Read]]:
    """Reads into a prompt's span, by storage host: one for neighbours that lie on the same one."""
    found: list[tuple[str, Read]] = []
    tokens = config.kv.block_tokens
    for extent in extents:
        first, last = extent.first * tokens, (extent.first + extent.count) * tokens
        storage = storage_of(extent.chain, config.storages)
        those: tuple[Extent, ...] = (extent,)
        if found and found[-1][0] == storage and found[-1][1].into.last == first:
            _, before = found.pop()
            those, first = (*before.extents, extent), before.into.first
        found.append((storage, Read(request, those, span.tokens(first, last))))
    return found
