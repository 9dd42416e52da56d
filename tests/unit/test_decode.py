"""Decode: modelled token times, what is persisted, and what the reports promise."""

import itertools

import anyio
import msgspec
import pytest
from fake_cluster import Cluster, Setup, with_cluster
from fakes import BLOCK, KV, FakeTransport, kv_of, play
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.decode import Sequence
from engines.kv import address_space
from engines.messages import Admitted, Append, Assign, Start, Submit, TurnDone, TurnFailed
from scheduler.types import Decision, ReadExtent, Request, Side

TPOT_S = 0.01
PE_READ = ReadExtent(Side.PE, 0, 4)


def done(cluster: Cluster, request: int) -> TurnDone:
    end = cluster.ends[request]
    assert isinstance(end, TurnDone)
    return end


@pytest.mark.parametrize("prompt", [20, 21, 22, 23])
@pytest.mark.parametrize("generate", [1, 2, 9, 12])
def test_tokens_come_at_the_modelled_times_and_are_right(prompt: int, generate: int) -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, prompt, 16, generate)
        await cluster.assign(turn, PE_READ)
        await cluster.end_of(1)
        assert cluster.right(turn)
        (start,) = cluster.network.messages(Start)
        end = done(cluster, 1)
        assert end.decode_start_s == start.at_s
        assert end.second_token_s == pytest.approx(start.at_s + TPOT_S)
        # Never before the last token; later only for the block that it completed to be kept.
        last_s = start.at_s + (generate - 1) * TPOT_S
        assert last_s <= end.last_token_s <= last_s + 0.05
        whole = BLOCK * ((prompt + generate) // BLOCK)
        kept = [number for chain, number in cluster.stores["store0"].blocks if chain == 1]
        assert sorted(kept) == list(range(4, whole // BLOCK))

    cluster = with_cluster(test, Setup(token_layer_s=0.0001))
    assert cluster.nothing_held()
    rows = (prompt + generate) // BLOCK - prompt // BLOCK
    assert cluster.decode.account["quanta"] == rows
    assert cluster.decode.account["turns"] == 1


def test_the_turn_ends_only_when_its_last_block_is_kept() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.stores["store0"].medium_s = 3.0
        turn = cluster.turn(1, 20, 16, 4)
        await cluster.assign(turn, PE_READ)
        await cluster.end_of(1)
        # Two blocks, one after the other: the prompt's last, and the generated one.
        assert done(cluster, 1).last_token_s - done(cluster, 1).decode_start_s > 5.0
        assert len([c for c, _ in cluster.stores["store0"].blocks if c == 1]) == 2

    with_cluster(test)


def test_generated_blocks_leave_as_they_complete_not_at_the_end() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, 20, 16, 20)
        await cluster.assign(turn, PE_READ)
        await cluster.end_of(1)
        appends = cluster.network.messages(Append)
        assert [sent.message.count for sent in appends] == [1] * 5
        assert [sent.message.first_block for sent in appends] == [5, 6, 7, 8, 9]
        assert [len(sent.message.generated) for sent in appends] == [1, 2, 3, 4, 5]
        gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(appends)]
        assert gaps == pytest.approx([BLOCK * TPOT_S] * 4, abs=TPOT_S)

    with_cluster(test)


def test_sequences_share_ticks_and_do_not_disturb_each_other() -> None:
    async def test(cluster: Cluster) -> None:
        turns = [cluster.turn(n, 16 + n, 16, 10 + n) for n in range(1, 9)]
        for turn in turns:
            await cluster.assign(turn, PE_READ)
        await cluster.end_of(*range(1, 9))
        assert all(cluster.right(turn) for turn in turns)
        for turn in turns:
            end, number = done(cluster, turn.request.id), turn.request.generate_tokens
            assert end.last_token_s >= end.decode_start_s + (number - 1) * TPOT_S

    cluster = with_cluster(test, Setup(token_layer_s=0.0))
    assert max(jobs for _, jobs in cluster.computes["de0-gpu"].decodes) > 1
    assert cluster.decode.account["late_ticks"] == 0


def test_lanes_lie_apart_in_one_memory() -> None:
    async def test(cluster: Cluster) -> None:
        turns = [cluster.turn(n, 20, 16, 12) for n in (1, 2)]
        for lane, turn in enumerate(turns):
            await cluster.assign(turn, PE_READ, lane=lane)
        await cluster.end_of(1, 2)
        assert all(cluster.right(turn) for turn in turns)
        slots = [sent.message.slot.slot for sent in cluster.network.messages(Admitted)]
        assert sorted(slots) == [0, address_space(103, 4)]

    with_cluster(test, Setup(lanes=2, lane_tokens=103))


@pytest.mark.parametrize(("parked", "taken"), [(0, 32), (24, 8), (400, 0)])
def test_what_is_promised_takes_hbm_as_far_as_the_buffer_cannot_park_it(
    parked: int, taken: int
) -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, 22, 16, 9)  # 31 tokens of context, in eight blocks
        decision = Decision(1, 1, "pe0/0", "de0/1", ())
        assign = FakeTransport("sched", cluster.network).post
        assign("de0-gpu", Assign(decision, turn))  # its prompt never comes
        await anyio.sleep(1.1)
        assign("de0-gpu", TurnFailed(1, "lost"))
        await anyio.sleep(1)

    reports = with_cluster(test, Setup(lanes=2, parked_tokens=parked)).reports("de0")
    idle, busy = reports[0].engines
    assert (idle.engine, idle.requests, idle.tokens, idle.free_hbm_tokens) == ("de0/0", 0, 0, 400)
    assert (busy.engine, busy.requests, busy.tokens, busy.seen) == ("de0/1", 1, 31, 1)
    assert busy.free_hbm_tokens == 400 - taken
    assert reports[-1].engines[1].free_hbm_tokens == 400


def test_a_share_of_turns_is_fingerprinted_at_decode_start() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, 22, 16, 9)
        await cluster.assign(turn, PE_READ)
        await cluster.end_of(1)
        values = kv_of(turn.content)
        cluster.network._regions["reference", "x"] = values
        span = msgspec.structs.replace(
            cluster.network.messages(Admitted)[0].message.slot, region="x", slot=0
        ).tokens(0, 22)
        reference = type(cluster.computes["de0-gpu"])("reference", cluster.network)
        assert done(cluster, 1).kv_fingerprint == reference.fingerprint(span)

    with_cluster(test, Setup(kv_samples=1.0))


@given(st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=50)
def test_every_quantum_is_due_when_its_last_real_token_is_out(prompt: int, generate: int) -> None:
    async def test() -> None:
        sequence = Sequence(1)
        turn = Submit(Request(1, 0, 0, prompt, 0, generate, (), 1), b"")
        sequence.begin(Assign(Decision(1, 1, "pe0/0", "de0/0", ()), turn), KV)
        sequence.start_s = 5.0
        quanta = 0
        while sequence.position < sequence.end:
            number = sequence.position + BLOCK - prompt
            assert 1 <= number <= generate
            assert sequence.quantum_s(KV, 1.0) == 5.0 + number - 1
            sequence.position += BLOCK
            quanta += 1
        assert quanta == (prompt + generate) // BLOCK - prompt // BLOCK

    play(test)
