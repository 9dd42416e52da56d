"""A storage host: reads extents out to buffers, keeps the blocks that they send."""

from collections.abc import Iterator

from engines.config import StorageConfig
from engines.errors import StoreError
from engines.handlers import Handlers
from engines.kv import Slots, Span
from engines.messages import Drain, Kept, Persist, Persisted, Read, ReadDigests, ReadDone
from engines.seams.clock import Clock
from engines.seams.store import Store
from engines.seams.transport import Delivery, Transport, Write
from engines.tasks import Crew, Event
from engines.waits import Arena


class Storage:
    """Serves reads in order of arrival, as many at once as its stage holds."""

    def __init__(
        self, config: StorageConfig, clock: Clock, transport: Transport, store: Store
    ) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._store = store
        self._stage = Arena(Slots(config.stage_tokens, config.kv.block_tokens), "the stage")
        self._to_keep: dict[str, list[Persist]] = {}
        self._news = Event()
        self._handlers = self._hears()
        self.account = {"reads": 0, "read_tokens": 0, "appends": 0, "appended_blocks": 0}

    async def run(self) -> None:
        """Serve until drained."""
        async with Crew() as tasks:
            self._tasks = tasks
            tasks.start(self._keep())
            tasks.start(self._transport.serve(self._act))

    def _hears(self) -> Handlers:
        hears = Handlers("storage")
        hears.on(Read, lambda buffer, read: self._tasks.start(self._read(buffer.sender, read)))
        hears.on(Persist, self._persist)
        hears.on(Drain, lambda _, drain: self._tasks.dismiss())
        return hears

    def _persist(self, buffer: Delivery, persist: Persist) -> None:
        self._to_keep.setdefault(buffer.sender, []).append(persist)
        self._news.set()

    def _act(self, delivery: Delivery) -> None:
        self._handlers[type(delivery.message)](delivery, delivery.message)

    def waits(self) -> Iterator[str]:
        """Turns in line for the stage, in words."""
        return self._stage.waits()

    async def _read(self, buffer: str, read: Read) -> None:
        tokens = read.into.last - read.into.first
        slot = await self._stage.take(tokens, read.request)
        try:
            stage = Span("stage", slot, 0, tokens, 0, self._config.kv.layers)
            try:
                digests = await self._store.read(read.extents, stage)
            except StoreError as error:
                refusal = ReadDigests(read.request, read.into, b"", str(error))
                return self._transport.post(buffer, refusal)
            # Digests are metadata: they go the way of control and weigh nothing on the SNIC.
            self._transport.post(buffer, ReadDigests(read.request, read.into, digests))
            done = ReadDone(read.request, read.into)
            await self._transport.write(
                buffer,
                [Write(stage, read.into, done, read.request)],
                deadline_s=self._config.deadline_s,
            )
            self.account["reads"] += 1
            self.account["read_tokens"] += tokens
        finally:
            self._stage.give(slot)

    async def _keep(self) -> None:
        """Append in order of arrival; the medium takes one extent after the other."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._to_keep:
                arrived, self._to_keep = self._to_keep, {}
                for buffer, persists in arrived.items():
                    kept = []
                    for persist in persists:
                        await self._store.append(persist.extent, persist.span, persist.digests)
                        self.account["appended_blocks"] += persist.extent.count
                        kept.append(Kept(persist.request, persist.extent, persist.span))
                    self.account["appends"] += len(kept)
                    self._transport.post(buffer, Persisted(tuple(kept)))
