"""New Full Blocks on their way from a node's DRAM to storage.

What becomes ready in the same instant goes to a storage host as one list of writes: decode
completes the blocks of many sequences in one step.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from engines.config import BufferConfig
from engines.kv import Extent, Slots, Span, storage_of
from engines.messages import Kept, Persist, Persisted
from engines.seams.transport import Transport, Write
from engines.tasks import Crew, Event
from engines.waits import Arena


class NewBlocks(msgspec.Struct, frozen=True):
    """New Full Blocks of a turn: where they go, where they lie, and what sequence they end."""

    extent: Extent
    span: Span
    content: bytes
    request: int
    decode: str  # the DE that hears of it


class _UnderWay(NamedTuple):
    """Blocks that storage was sent, and what to do once they are kept."""

    new: NewBlocks
    sent: "_Sent"
    then: Callable[[], None]


class _Sent:
    """A list under way: its slot in the inbox is free when storage has kept all of it."""

    def __init__(self, inbox: Arena, slot: int, left: int) -> None:
        self._inbox = inbox
        self._slot = slot
        self._left = left

    def count(self) -> None:
        """One of them is kept."""
        self._left -= 1
        if self._left == 0:
            self._inbox.give(self._slot)


Pending = tuple[NewBlocks, Callable[[], None]]  # and what to do once they are kept


class Persister:
    """Seals blocks, takes room in the storage host's inbox, sends, and says when they are kept."""

    def __init__(self, config: BufferConfig, transport: Transport) -> None:
        self._config = config
        self._transport = transport
        self.inbox = {
            storage: Arena(
                Slots(config.inbox_tokens, config.kv.block_tokens), f"the inbox of {storage}"
            )
            for storage in config.storages
        }
        self._waiting: dict[str, list[Pending]] = {}
        self._under_way: dict[Extent, _UnderWay] = {}
        self._news = Event()
        self.unkept_tokens = 0  # that wait for storage, sent or not

    def keep(self, new: NewBlocks, then: Callable[[], None]) -> None:
        """Have blocks stored; once a restart of storage would find them, tell the DE, and `then`.

        It may hand them to a next turn from then on.
        """
        if not new.extent.count:
            self._tell(new.decode, [Kept(new.request, new.extent, new.span)])
            return then()
        storage = storage_of(new.extent.chain, self._config.storages)
        self._waiting.setdefault(storage, []).append((new, then))
        self.unkept_tokens += self._tokens(new)
        self._news.set()

    def hear(self, persisted: Persisted) -> None:
        """Storage keeps these extents."""
        told: dict[str, list[Kept]] = {}
        for kept in persisted.kept:
            new, sent, then = self._under_way.pop(kept.extent)
            sent.count()
            self.unkept_tokens -= self._tokens(new)
            told.setdefault(new.decode, []).append(Kept(new.request, new.extent, new.span))
            then()
        for decode, some in told.items():
            self._tell(decode, some)

    def _tell(self, decode: str, kept: list[Kept]) -> None:
        self._transport.post(decode, Persisted(tuple(kept)))

    def waits(self) -> Iterator[str]:
        """Turns in line for an inbox, and those whose blocks storage has not kept, in words."""
        for arena in self.inbox.values():
            yield from arena.waits()
        for extent, (new, _, _) in self._under_way.items():
            storage = storage_of(extent.chain, self._config.storages)
            yield f"turn {new.request} for {storage} to keep {extent}"

    async def run(self, tasks: Crew) -> None:
        """Send what waits, a storage host at a time."""
        while True:
            await self._news.wait()
            self._news.clear()
            waiting, self._waiting = self._waiting, {}
            for storage, pending in waiting.items():
                for some in self._within_inbox(pending):
                    tasks.start(self._send(storage, some))

    def _within_inbox(self, pending: list[Pending]) -> list[list[Pending]]:
        """Lists that each fit into an empty inbox."""
        lists: list[list[Pending]] = []
        room = 0
        for one in pending:
            tokens = self._tokens(one[0])
            if tokens > room:
                lists.append([])
                room = self._config.inbox_tokens
            lists[-1].append(one)
            room -= tokens
        return lists

    async def _send(self, storage: str, pending: list[Pending]) -> None:
        inbox = self.inbox[storage]
        tokens = sum(self._tokens(new) for new, _ in pending)
        slot = await inbox.take(tokens, pending[0][0].request)
        whole = Span("inbox", self._config.inbox_base + slot, 0, 0, 0, self._config.kv.layers)
        sent = _Sent(inbox, slot, len(pending))
        writes, at = [], 0
        for new, then in pending:
            end = at + new.extent.count * self._config.kv.block_tokens
            into = whole.tokens(at, end)
            at = end
            self._under_way[new.extent] = _UnderWay(new, sent, then)
            digests = self._transport.seal(new.span, new.content, new.extent.first)
            note = Persist(new.request, new.extent, into, digests)
            writes.append(Write(new.span, into, note, new.request))
        await self._transport.write(storage, writes, deadline_s=self._config.deadline_s)

    def _tokens(self, new: NewBlocks) -> int:
        return new.extent.count * self._config.kv.block_tokens
