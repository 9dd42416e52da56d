"""A storage host: reads out, refusals, and what it keeps."""

import anyio
import pytest
from fakes import KV, LAYERS, FakeClock, FakeStore, FakeTransport, Network, kv_of, play, text

from engines.config import StorageConfig
from engines.errors import EngineError
from engines.kv import Extent, Span
from engines.messages import Drain, Kept, Persist, Persisted, Read, ReadDigests, ReadDone, Start
from engines.seams.transport import Write
from engines.storage import Storage

CONTENT = text(1, 40)


class Host:
    def __init__(self, stage_tokens: int = 80) -> None:
        self.network = Network(token_layer_s=0.001)
        self.store = FakeStore("store0", self.network)
        self.store.hold(5, CONTENT, 0, 10)
        config = StorageConfig("store0", KV, stage_tokens, 100.0)
        transport = FakeTransport("store0", self.network)
        self.storage = Storage(config, FakeClock(), transport, self.store)
        self.buffer = FakeTransport("buf", self.network)

    async def serve(self, seconds: float) -> None:
        """Serve what was sent, and drain after some time."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.storage.run)
            await anyio.sleep(seconds)
            self.buffer.post("store0", Drain())


def read(number: int, *extents: Extent, slot: int = 0) -> Read:
    tokens = sum(extent.count for extent in extents) * 4
    return Read(number, extents, Span("dram", slot, 8, 8 + tokens, 0, LAYERS))


def test_a_read_puts_blocks_and_their_digests_into_the_slot() -> None:
    async def test() -> None:
        host = Host()
        wanted = read(1, Extent(5, 2, 3), Extent(5, 7, 1))
        host.buffer.post("store0", wanted)
        await host.serve(1)
        (digests,) = host.network.messages(ReadDigests)
        (done,) = host.network.messages(ReadDone)
        assert done.message == ReadDone(1, wanted.into) and done.peer == "buf"
        values = kv_of(CONTENT)[[2, 3, 4, 7]]
        assert host.network.rows("buf", wanted.into).tolist() == values.tolist()
        assert digests.message.error == "" and len(digests.message.digests) == 4 * 8
        assert done.token_layers == 16 * LAYERS
        account = host.storage.account
        assert (account["reads"], account["read_tokens"]) == (1, 16)

    play(test)


def test_a_missing_block_is_refused_and_nothing_is_written() -> None:
    async def test() -> None:
        host = Host()
        host.buffer.post("store0", read(1, Extent(5, 8, 3)))
        host.buffer.post("store0", read(2, Extent(5, 0, 2)))
        await host.serve(1)
        answers = {
            sent.message.request: sent.message for sent in host.network.messages(ReadDigests)
        }
        assert answers[1].error == "store0 does not hold block 10 of 5"
        assert answers[1].digests == b""
        assert answers[2].error == ""
        assert [sent.message.request for sent in host.network.messages(ReadDone)] == [2]
        assert host.storage.account["reads"] == 1
        assert host.storage._stage.free_tokens == 80

    play(test)


def test_as_many_reads_at_once_as_the_stage_holds() -> None:
    async def test() -> None:
        host = Host(stage_tokens=32)
        at_work, most = 0, 0

        async def count(sender: str, peer: str, write: Write) -> None:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            await anyio.sleep(1)
            at_work -= 1

        host.network.before_write = count
        for number in range(5):
            host.buffer.post("store0", read(number, Extent(5, 0, 4), slot=40 * number))
        await host.serve(10)
        assert most == 2
        done = [sent.message.request for sent in host.network.messages(ReadDone)]
        assert done == [0, 1, 2, 3, 4]

    play(test)


def test_blocks_are_kept_before_the_buffer_hears_of_it() -> None:
    async def test() -> None:
        host = Host()
        host.store.medium_s = 2.0
        inbox = Span("inbox", 40, 0, 8, 0, LAYERS)
        host.network.rows("store0", inbox)[:] = kv_of(CONTENT)[:2]
        note = Persist(1, Extent(9, 3, 2), inbox, b"a" * 8 + b"b" * 8)
        host.buffer.post("store0", note)
        await host.serve(5)
        (kept,) = host.network.messages(Persisted)
        assert kept.at_s == pytest.approx(2.0) and kept.peer == "buf"
        assert kept.message == Persisted((Kept(1, Extent(9, 3, 2), inbox),))
        assert host.store.blocks[9, 4][1] == b"b" * 8
        assert host.storage.account["appended_blocks"] == 2

    play(test)


def test_what_arrives_together_is_kept_in_order_and_told_together() -> None:
    async def test() -> None:
        host = Host()
        host.store.medium_s = 1.0
        spans = [Span("inbox", 40 + 8 * n, 0, 4, 0, LAYERS) for n in range(3)]
        for n, span in enumerate(spans):
            host.buffer.post("store0", Persist(n, Extent(9, n, 1), span, bytes([n]) * 8))
        await host.serve(9)
        (sent,) = host.network.messages(Persisted)
        assert sent.at_s == pytest.approx(3.0)
        wanted = tuple(Kept(n, Extent(9, n, 1), span) for n, span in enumerate(spans))
        assert sent.message == Persisted(wanted)
        assert list(host.store.blocks)[-3:] == [(9, 0), (9, 1), (9, 2)]

    play(test)


def test_a_message_that_is_not_for_storage_is_an_error() -> None:
    async def test() -> None:
        host = Host()
        host.buffer.post("store0", Start(1))
        with pytest.raises(ExceptionGroup) as caught:
            await host.storage.run()
        assert caught.group_contains(EngineError, match="storage cannot use Start")

    play(test)
