"""New Full Blocks on their way from a node's DRAM to storage.

What becomes ready in the same instant goes to a storage host as one list of writes: decode
completes the blocks of many sequences in one step.
"""

from collections.abc import Callable, Iterator

import msgspec

from engines.cache import DramCache
from engines.config import BufferConfig
from engines.kv import Extent, Slots, Span, storage_of
from engines.messages import Kept, Persist, Persisted
from engines.seams.transport import Transport, Write
from engines.tasks import Crew
from engines.waits import Arena


class NewBlocks(msgspec.Struct, frozen=True):
    """New Full Blocks of a turn: where they go, where they lie, and what sequence they end."""

    extent: Extent
    span: Span
    content: bytes
    request: int
    decode: str  # the DE that hears of it
    then: Callable[[int], None]  # called with their number once they are kept


class _Load:
    """What goes to a storage host together: one slot in its inbox, free when all of it is kept."""

    def __init__(self, room: int) -> None:
        self.room = room  # tokens that it still takes
        self.blocks: list[NewBlocks] = []
        self.slot = self.unkept = 0


class Persister:
    """Seals blocks, takes room in the storage host's inbox, sends, and says when they are kept.

    What it sealed, the node's cache keeps too.
    """

    def __init__(
        self, config: BufferConfig, transport: Transport, cache: DramCache, tasks: Crew
    ) -> None:
        self._config = config
        self._block_tokens = config.kv.block_tokens
        self._transport = transport
        self._cache = cache
        self._tasks = tasks
        self.inbox = {
            storage: Arena(
                Slots(config.inbox_tokens, config.kv.block_tokens), f"the inbox of {storage}"
            )
            for storage in config.storages
        }
        self._waiting: dict[str, _Load] = {}
        self._under_way: dict[Extent, tuple[NewBlocks, _Load]] = {}
        self.unkept_tokens = 0  # that wait for storage, sent or not

    def keep(self, new: NewBlocks) -> None:
        """Have blocks stored; once a restart of storage would find them, tell the DE, and `then`.

        It may hand them to a next turn from then on.
        """
        if not new.extent.count:
            self._tell(new.decode, [Kept(new.request, new.extent, new.span)])
            return new.then(0)
        tokens = new.extent.count * self._block_tokens
        self.unkept_tokens += tokens
        storage = storage_of(new.extent.chain, self._config.storages)
        load = self._waiting.get(storage)
        if load is None or load.room < tokens:
            load = self._waiting[storage] = _Load(self._config.inbox_tokens)
            self._tasks.start(self._send(storage, load))
        load.room -= tokens
        load.blocks.append(new)

    def hear(self, persisted: Persisted) -> None:
        """Storage keeps these extents."""
        told: dict[str, list[Kept]] = {}
        for kept in persisted.kept:
            new, load = self._under_way.pop(kept.extent)
            load.unkept -= 1
            if not load.unkept:
                self.inbox[storage_of(new.extent.chain, self._config.storages)].give(load.slot)
            self.unkept_tokens -= new.extent.count * self._block_tokens
            told.setdefault(new.decode, []).append(Kept(new.request, new.extent, new.span))
            new.then(new.extent.count)
        for decode, some in told.items():
            self._tell(decode, some)

    def _tell(self, decode: str, kept: list[Kept]) -> None:
        self._transport.post(decode, Persisted(tuple(kept)))

    def waits(self) -> Iterator[str]:
        """Turns in line for an inbox, and those whose blocks storage has not kept, in words."""
        for arena in self.inbox.values():
            yield from arena.waits()
        for extent, (new, _) in self._under_way.items():
            storage = storage_of(extent.chain, self._config.storages)
            yield f"turn {new.request} for {storage} to keep {extent}"

    async def _send(self, storage: str, load: _Load) -> None:
        if self._waiting.get(storage) is load:
            del self._waiting[storage]  # it is on its way: others go with the next
        load.unkept = len(load.blocks)
        tokens = self._config.inbox_tokens - load.room
        load.slot = await self.inbox[storage].take(tokens, load.blocks[0].request)
        into = Span("inbox", self._config.inbox_base + load.slot, 0, 0, 0, self._config.kv.layers)
        writes = []
        for new in load.blocks:
            into = into.tokens(into.last, into.last + new.extent.count * self._block_tokens)
            self._under_way[new.extent] = (new, load)
            digests = self._transport.seal(new.span, new.content, new.extent.first)
            self._cache.keep([new.extent], new.span, digests)
            note = Persist(new.request, new.extent, into, digests)
            writes.append(Write(new.span, into, note, new.request))
        await self._transport.write(storage, writes, deadline_s=self._config.deadline_s)
