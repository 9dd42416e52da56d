"""A turn through both buffers: who sends what to whom, what waits, and what a failure leaves."""

import anyio
import msgspec
import pytest
from fake_cluster import Cluster, Setup, with_cluster
from fakes import BLOCK, LAYERS, FakeTransport, Network, kv_of

from engines.config import GpuTime
from engines.kv import Extent
from engines.messages import (
    Admit,
    LayerDone,
    Loaded,
    Message,
    Persist,
    Read,
    ReadDone,
    Submit,
    TurnDone,
    TurnFailed,
)
from engines.seams.transport import Write
from scheduler.types import ReadExtent, Side

PROMPT, HIT, GENERATE = 22, 16, 9  # m = 6; five blocks of prompt, seven at the end


def one_turn(*reads: ReadExtent, setup: Setup | None = None) -> Cluster:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, PROMPT, HIT, GENERATE)
        await cluster.assign(turn, *reads)
        await cluster.end_of(1)
        assert cluster.right(turn)

    return with_cluster(test, setup)


def moved(network: Network, sender: str, peer: str) -> int:
    return sum(sent.token_layers for sent in network.writes(sender, peer))


PE_PATH = (ReadExtent(Side.PE, 0, 4),)
DE_PATH = (ReadExtent(Side.DE, 0, 4),)


def test_pe_path_moves_hits_through_the_pe_buffer_and_all_kv_to_the_de_buffer() -> None:
    network = one_turn(*PE_PATH).network
    assert moved(network, "store0", "pe0-buf") == HIT * LAYERS
    assert moved(network, "pe0-buf", "pe0-gpu") == HIT * LAYERS
    assert moved(network, "pe0-gpu", "de0-buf") == PROMPT * LAYERS  # H + m
    assert moved(network, "de0-buf", "de0-gpu") == PROMPT * LAYERS
    assert not network.writes("store0", "de0-buf")
    assert not network.writes("de0-buf", "pe0-gpu")


def test_de_path_moves_hits_to_prefill_hbm_and_only_the_miss_comes_back() -> None:
    network = one_turn(*DE_PATH).network
    assert moved(network, "store0", "de0-buf") == HIT * LAYERS
    assert moved(network, "de0-buf", "pe0-gpu") == HIT * LAYERS
    assert moved(network, "pe0-gpu", "de0-buf") == (PROMPT - HIT) * LAYERS  # m alone
    assert moved(network, "de0-buf", "de0-gpu") == PROMPT * LAYERS
    # PE DRAM is never touched.
    assert not network.writes(peer="pe0-buf") and not network.writes("pe0-buf")


@pytest.mark.parametrize("de_first", [0, 2])
def test_split_read_sends_exactly_what_the_de_buffer_lacks(de_first: int) -> None:
    # Two of four blocks are read on the DE side: the first or the last ones.
    reads = ReadExtent(Side.DE, de_first, 2), ReadExtent(Side.PE, 2 - de_first, 2)
    network = one_turn(*reads).network
    assert moved(network, "store0", "de0-buf") == moved(network, "store0", "pe0-buf") == 2 * 4 * 2
    assert moved(network, "pe0-gpu", "de0-buf") == (PROMPT - 8) * LAYERS
    sent = [
        (s.write.target.first, s.write.target.last)
        for s in network.writes("pe0-gpu", "de0-buf")
        if s.write and s.write.target.layer_first == 0
    ]
    held = (de_first * BLOCK, (de_first + 2) * BLOCK)
    tokens = [token for first, last in sent for token in range(first, last)]
    assert sorted(tokens) == [t for t in range(PROMPT) if not held[0] <= t < held[1]]


def test_extents_between_those_of_the_other_side_are_sent_around() -> None:
    reads = ReadExtent(Side.DE, 0, 1), ReadExtent(Side.PE, 1, 2), ReadExtent(Side.DE, 3, 1)
    network = one_turn(*reads).network
    assert moved(network, "pe0-gpu", "de0-buf") == (PROMPT - 2 * BLOCK) * LAYERS


def test_two_extents_on_the_pe_side_are_both_pulled() -> None:
    reads = ReadExtent(Side.PE, 0, 1), ReadExtent(Side.DE, 1, 2), ReadExtent(Side.PE, 3, 1)
    one_turn(*reads)


def test_a_turn_without_hits_reads_nothing() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, PROMPT, 0, GENERATE)
        await cluster.assign(turn)
        await cluster.end_of(1)
        assert cluster.right(turn)
        assert not cluster.network.messages(Read)
        assert moved(cluster.network, "pe0-gpu", "de0-buf") == PROMPT * LAYERS

    assert with_cluster(test).nothing_held()


@pytest.mark.parametrize("reads", [PE_PATH, DE_PATH])
def test_every_slot_is_free_after_a_turn(reads: tuple[ReadExtent, ...]) -> None:
    assert one_turn(*reads).nothing_held()


def test_prompt_is_admitted_only_when_every_layer_is_there() -> None:
    log = one_turn(*PE_PATH).network.log
    admit = next(n for n, sent in enumerate(log) if isinstance(sent.message, Admit))
    layers = [n for n, sent in enumerate(log) if isinstance(sent.message, LayerDone)]
    assert len(layers) == LAYERS and max(layers) < admit


def test_the_final_layer_may_overtake_the_others() -> None:
    async def test(cluster: Cluster) -> None:
        async def slow_first_layer(sender: str, peer: str, write: Write) -> None:
            if isinstance(write.note, LayerDone) and write.note.layer == 0:
                await anyio.sleep(5)

        cluster.network.before_write = slow_first_layer
        turn = cluster.turn(1, PROMPT, HIT, GENERATE)
        await cluster.assign(turn, *PE_PATH)
        await cluster.end_of(1)
        assert cluster.right(turn)
        final, first = [
            sent.at_s for sent in cluster.network.log if isinstance(sent.message, LayerDone)
        ]
        (admit,) = cluster.network.messages(Admit)
        assert final < first <= admit.at_s

    with_cluster(test)


def test_each_new_block_is_persisted_once_and_with_the_right_kv() -> None:
    cluster = one_turn(*DE_PATH)
    blocks = cluster.stores["store0"].blocks
    # Five whole blocks of prompt of which four were hits, and two that decode completed.
    kept = sorted(number for chain, number in blocks if chain == 1)
    assert kept == [4, 5, 6]
    assert cluster.storage["store0"].account["appended_blocks"] == 3
    end = cluster.ends[1]
    assert isinstance(end, TurnDone)
    whole = cluster.turn(1, PROMPT, HIT, GENERATE).content + end.content
    for number in kept:
        assert list(blocks[1, number][0]) == list(kv_of(whole)[number])


def test_the_de_buffers_slot_is_free_before_generated_blocks_are_kept() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, 25, 24, GENERATE)  # no new block of prompt
        cluster.stores["store0"].medium_s = 5.0
        await cluster.assign(turn, ReadExtent(Side.DE, 0, 6))
        while not cluster.network.messages(Persist):
            await anyio.sleep(0.01)
        await anyio.sleep(1)
        assert 1 not in cluster.ends
        assert cluster.buffers["de0"]._dram.free_tokens == cluster.setup.dram_tokens
        await cluster.end_of(1)
        assert cluster.right(turn)

    with_cluster(test)


def test_a_prompt_of_nothing_but_hits_read_on_the_de_side() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, 24, 24, GENERATE)
        await cluster.assign(turn, ReadExtent(Side.DE, 0, 6))
        await cluster.end_of(1)
        assert cluster.right(turn)

    with_cluster(test)


@pytest.mark.parametrize(("memory", "tokens"), [
    ("dram_tokens", 24), ("pool_tokens", 24), ("lane_tokens", 32), ("stage_tokens", 16),
])  # fmt: skip
@pytest.mark.parametrize("side", Side)
def test_turns_wait_where_a_memory_holds_only_one(memory: str, tokens: int, side: Side) -> None:
    async def test(cluster: Cluster) -> None:
        turns = [cluster.turn(n, PROMPT, HIT, GENERATE) for n in range(1, 6)]
        for turn in turns:
            await cluster.assign(turn, ReadExtent(side, 0, 4))
        await cluster.end_of(1, 2, 3, 4, 5)
        assert all(cluster.right(turn) for turn in turns)

    values = {"dram_tokens": 400, "pool_tokens": 400, "lane_tokens": 400, "stage_tokens": 400}
    assert with_cluster(test, Setup(**{**values, memory: tokens})).nothing_held()


def test_no_more_reads_are_in_flight_than_allowed() -> None:
    under_way: dict[int, int] = {}

    async def test(cluster: Cluster) -> None:
        for number in range(1, 7):
            turn = cluster.turn(number, PROMPT, HIT, 4)
            await cluster.assign(turn, ReadExtent(Side.PE, 0, 4))
        await cluster.end_of(*range(1, 7))
        count = 0
        for sent in cluster.network.log:
            count += isinstance(sent.message, Read) - isinstance(sent.message, ReadDone)
            under_way[count] = 1

    with_cluster(test, Setup(reads_in_flight=2))
    assert max(under_way) == 2


def test_read_ahead_limits_what_a_node_reads_before_prefill_wants_it() -> None:
    async def test(cluster: Cluster) -> None:
        # A GPU of 2 s a turn: only the first of four can have left DRAM after one second.
        for number in range(1, 5):
            await cluster.assign(cluster.turn(number, PROMPT, HIT, 4), ReadExtent(Side.PE, 0, 4))
        await anyio.sleep(1.0)
        assert len(cluster.network.messages(Read)) == 2
        await cluster.end_of(1, 2, 3, 4)

    with_cluster(
        test,
        Setup(read_ahead=1, pool_tokens=24, gpu=GpuTime(1 / 3, 0.0), token_layer_s=0.0),
    )


def test_hits_on_two_storage_hosts_are_read_from_each() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, PROMPT, HIT, GENERATE)
        cluster.stores["store0"].hold(2000, turn.content, 0, 1)
        cluster.stores["store1"].hold(2001, turn.content, 1, 3)
        context = (Extent(2000, 0, 1), Extent(2001, 1, 3))
        request = msgspec.structs.replace(turn.request, context=context)
        turn = type(turn)(request, turn.content)
        await cluster.assign(turn, ReadExtent(Side.DE, 0, 2), ReadExtent(Side.PE, 2, 2))
        await cluster.end_of(1)
        assert cluster.right(turn)
        reads = {
            (sent.sender, sent.peer): sent.message.extents
            for sent in cluster.network.messages(Read)
            if isinstance(sent.message, Read)
        }
        assert reads == {
            ("de0-buf", "store0"): (Extent(2000, 0, 1),),
            ("de0-buf", "store1"): (Extent(2001, 1, 1),),
            ("pe0-buf", "store1"): (Extent(2001, 2, 2),),
        }

    with_cluster(test, Setup(storages=2))


def fail_one(cluster: Cluster) -> None:
    """Damage block 2 of turn 1's hits."""
    values, digest = cluster.stores["store0"].blocks[1001, 2]
    cluster.stores["store0"].blocks[1001, 2] = values + 1, digest


@pytest.mark.parametrize("reads", [
    PE_PATH, DE_PATH, (ReadExtent(Side.DE, 0, 2), ReadExtent(Side.PE, 2, 2)),
])  # fmt: skip
def test_a_damaged_block_fails_its_turn_everywhere_and_no_other(
    reads: tuple[ReadExtent, ...],
) -> None:
    async def test(cluster: Cluster) -> None:
        bad, good = (cluster.turn(n, PROMPT, HIT, GENERATE) for n in (1, 2))
        fail_one(cluster)
        await cluster.assign(bad, *reads)
        await cluster.assign(good, *reads)
        await cluster.end_of(1, 2)
        assert cluster.right(good)
        end = cluster.ends[1]
        assert isinstance(end, TurnFailed) and "blocks" in end.reason
        told = {sent.peer for sent in cluster.network.messages(TurnFailed)}
        finder = {sent.sender for sent in cluster.network.messages(TurnFailed)}
        assert told | finder == {
            "pe0-buf", "de0-buf", "pe0-gpu", "de0-gpu", "sched", "agents",
        }  # fmt: skip
        done = {s.message.request for s in cluster.network.messages(Loaded) if s.sender in finder}
        assert done == {2}

    cluster = with_cluster(test)
    assert cluster.nothing_held()
    assert sum(buffer.account["digest_failures"] for buffer in cluster.buffers.values()) == 1
    assert sum(buffer.account["turns"] for buffer in cluster.buffers.values()) == len(reads) + (
        reads[0].side is Side.PE
    )


def test_a_missing_block_fails_its_turn_with_the_storages_words() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, PROMPT, HIT, GENERATE)
        del cluster.stores["store0"].blocks[1001, 3]
        await cluster.assign(turn, *PE_PATH)
        await cluster.end_of(1)
        end = cluster.ends[1]
        assert isinstance(end, TurnFailed)
        assert end.reason == "store0 does not hold block 3 of 1001"

    assert with_cluster(test).nothing_held()


def test_a_late_write_of_a_failed_turn_does_not_reach_the_next_one() -> None:
    async def test(cluster: Cluster) -> None:
        bad, good = (cluster.turn(n, PROMPT, HIT, GENERATE) for n in (1, 2))
        content = bad.content
        cluster.stores["store1"].hold(2001, content, 0, 2)
        context = (Extent(2000, 0, 2), Extent(2001, 2, 2))
        cluster.stores["store1"].hold(2001, content, 2, 2)  # store0 has not got chain 2000
        bad = type(bad)(msgspec.structs.replace(bad.request, context=context), content)

        async def late(sender: str, peer: str, write: Write) -> None:
            if sender == "store1" and write.request == 1:
                await anyio.sleep(0.02)  # it lands after the good turn was checked

        cluster.network.before_write = late
        await cluster.assign(bad, *PE_PATH)
        await cluster.assign(good, *PE_PATH)
        await cluster.end_of(1, 2)
        assert isinstance(cluster.ends[1], TurnFailed)
        assert cluster.right(good)

    with_cluster(test, Setup(storages=2, dram_tokens=24))


def test_a_read_under_way_when_the_other_side_fails_gives_its_slot_back() -> None:
    async def test(cluster: Cluster) -> None:
        bad, good = (cluster.turn(n, PROMPT, HIT, GENERATE) for n in (1, 2))
        cluster.stores["store1"].hold(2001, bad.content, 2, 2)  # the first half is nowhere
        context = (Extent(2000, 0, 2), Extent(2001, 2, 2))
        bad = type(bad)(msgspec.structs.replace(bad.request, context=context), bad.content)

        async def late(sender: str, peer: str, write: Write) -> None:
            if sender == "store1" and write.request == 1:
                await anyio.sleep(0.5)  # long after the PE side has failed the turn

        cluster.network.before_write = late
        await cluster.assign(bad, ReadExtent(Side.PE, 0, 2), ReadExtent(Side.DE, 2, 2))
        await cluster.assign(good, *DE_PATH)
        await cluster.end_of(1, 2)
        assert isinstance(cluster.ends[1], TurnFailed)
        assert cluster.right(good)
        await anyio.sleep(1)

    assert with_cluster(test, Setup(storages=2, dram_tokens=24)).nothing_held()


def test_a_failure_may_come_before_the_assignment() -> None:
    async def test(cluster: Cluster) -> None:
        turn, good = (cluster.turn(n, PROMPT, HIT, GENERATE) for n in (1, 2))
        failed: Message = TurnFailed(1, "lost")
        for host in ("pe0-buf", "de0-buf", "pe0-gpu", "de0-gpu"):
            FakeTransport("sched", cluster.network).post(host, failed)
        await cluster.assign(turn, *PE_PATH)
        await cluster.assign(good, *PE_PATH)
        await cluster.end_of(2)
        assert cluster.right(good)
        assert not [s for s in cluster.network.messages(TurnDone) if s.message.request == 1]

    assert with_cluster(test).nothing_held()


def test_reports_hold_what_is_still_to_be_read() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.assign(cluster.turn(1, PROMPT, HIT, GENERATE), *DE_PATH)
        await cluster.end_of(1)
        await anyio.sleep(1)

    # 16 tokens in two layers take 1.6 s: the read queue is full at 0.5 s, and empty at the end.
    queues = [
        (report.nodes[0].node, report.nodes[0].read_queue_tokens, report.nodes[0].seen)
        for report in with_cluster(test, Setup(token_layer_s=0.05)).reports("de0")
    ]
    assert queues[0] == ("de0", HIT, 1)
    assert queues[-1] == ("de0", 0, 1)


def again(turn: Submit) -> Submit:
    """The same prompt once more, as turn 2."""
    return Submit(msgspec.structs.replace(turn.request, id=2, chain=2), turn.content)


@pytest.mark.parametrize("reads", [PE_PATH, DE_PATH])
def test_what_a_node_has_read_it_does_not_read_again(reads: tuple[ReadExtent, ...]) -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, PROMPT, HIT, GENERATE)
        for each in (turn, again(turn)):
            await cluster.assign(each, *reads)
            await cluster.end_of(each.request.id)
            assert cluster.right(each)
        assert len(cluster.network.messages(Read)) == 1
        buffer = cluster.buffers[reads[0].side.value + "0"]
        assert buffer.cached_tokens == {2: HIT} and buffer.account["read_tokens"] == HIT

    # Nothing of a cache is in use between turns, and its memory is its own.
    assert with_cluster(test, Setup(cache_tokens=80)).nothing_held()


def test_a_cache_that_has_a_part_leaves_the_rest_to_storage_and_to_the_queue() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, PROMPT, HIT, GENERATE)
        await cluster.assign(turn, *PE_PATH)
        await cluster.end_of(1)

        async def slow_read(sender: str, peer: str, write: Write) -> None:
            if isinstance(write.note, ReadDone):
                await anyio.sleep(5)

        cluster.network.before_write = slow_read
        told = len(cluster.reports("pe0"))
        await cluster.assign(again(turn), *PE_PATH)
        await cluster.end_of(2)
        assert cluster.right(again(turn))
        queued = {n.read_queue_tokens for r in cluster.reports("pe0")[told:] for n in r.nodes}
        assert max(queued) == 2 * BLOCK
        last = cluster.network.messages(Read)[-1].message
        assert isinstance(last, Read) and last.extents == (Extent(1001, 2, 2),)

    with_cluster(test, Setup(cache_tokens=2 * BLOCK))
