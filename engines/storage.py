"""A storage host: reads extents out to buffers, keeps the blocks that they send."""

import anyio
from anyio.abc import TaskGroup

from engines.config import StorageConfig
from engines.errors import EngineError, StoreError
from engines.kv import Slots, Span
from engines.messages import Drain, Persist, Persisted, Read, ReadDigests, ReadDone
from engines.seams.clock import Clock
from engines.seams.store import Store
from engines.seams.transport import Transport, Write
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
        self._stage = Arena(Slots(config.stage_tokens, config.kv.block_tokens))
        self.account = {"reads": 0, "read_tokens": 0, "appends": 0, "appended_blocks": 0}

    async def run(self) -> None:
        """Serve until drained."""
        async with anyio.create_task_group() as tasks:
            while True:
                delivery = await self._transport.receive()
                match delivery.message:
                    case Read() as read:
                        tasks.start_soon(self._read, delivery.sender, read)
                    case Persist() as persist:
                        await self._persist(delivery.sender, persist)
                    case Drain():
                        return self._leave(tasks)
                    case other:
                        raise EngineError(f"storage cannot use {type(other).__name__}")

    async def _read(self, buffer: str, read: Read) -> None:
        tokens = read.into.last - read.into.first
        slot = await self._stage.take(tokens)
        try:
            stage = Span("stage", slot, 0, tokens, 0, self._config.kv.layers)
            try:
                digests = await self._store.read(read.extents, stage)
            except StoreError as error:
                refusal = ReadDigests(read.request, read.into, b"", str(error))
                return await self._transport.send(buffer, refusal)
            # Digests are metadata: they go the way of control and weigh nothing on the SNIC.
            await self._transport.send(buffer, ReadDigests(read.request, read.into, digests))
            done = ReadDone(read.request, read.into)
            await self._transport.write(
                buffer,
                Write(stage, read.into, done, read.request),
                deadline_s=self._config.deadline_s,
            )
            self.account["reads"] += 1
            self.account["read_tokens"] += tokens
        finally:
            self._stage.give(slot)

    async def _persist(self, buffer: str, persist: Persist) -> None:
        await self._store.append(persist.extent, persist.span, persist.digests)
        self.account["appends"] += 1
        self.account["appended_blocks"] += persist.extent.count
        done = Persisted(persist.request, persist.extent, persist.span)
        await self._transport.send(buffer, done)

    def _leave(self, tasks: TaskGroup) -> None:
        tasks.cancel_scope.cancel()
