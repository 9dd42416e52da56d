"""Decode: modelled token times, what is persisted, and what the reports promise."""

import itertools

import anyio
import msgspec
import pytest
from fake_cluster import Cluster, Setup, with_cluster
from fakes import BLOCK, EXCHANGE, KV, FakeClock, FakeCompute, FakeTransport, kv_of, play
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.decode import Decode, Sequence
from engines.decode_turn import Paused
from engines.kv import address_space
from engines.messages import (
    Admit,
    Admitted,
    Append,
    Assign,
    Barrier,
    Drain,
    Join,
    Start,
    Submit,
    TurnDone,
    TurnFailed,
)
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
        sequence.start(5.0, Admit(1, b""), Paused())
        quanta = 0
        while sequence.position < sequence.end:
            number = sequence.position + BLOCK - prompt
            assert 1 <= number <= generate
            assert sequence.quantum_s(KV, 1.0) == 5.0 + number - 1
            sequence.position += BLOCK
            quanta += 1
        assert quanta == (prompt + generate) // BLOCK - prompt // BLOCK

    play(test)


def test_a_clock_that_pauses_puts_off_what_comes_after_the_pauses_begin() -> None:
    clock = Paused()
    assert clock.of(3.0) == clock.target_s(3.0) == 3.0
    clock.pause(10.0, 0.5)
    # A turn that begins after the first pause has the second one only.
    sequence = Sequence(1)
    turn = Submit(Request(1, 0, 0, 4, 0, 40, (), 1), b"")
    sequence.begin(Assign(Decision(1, 1, "pe0/0", "de0/0", ()), turn), KV)
    sequence.start(15.0, Admit(1, b""), clock)
    clock.pause(20.0, 0.25)
    assert clock.sum_s == 0.75 and clock.of(30.0) == 29.25 and clock.of(20.1) == 19.5
    assert [clock.target_s(at_s) for at_s in (9.0, 10.0, 10.1, 19.5, 19.6)] == [
        9.0, 10.0, 10.6, 20.0, pytest.approx(20.35),
    ]  # fmt: skip
    assert sequence.token_s(1, 1.0) == 15.0 and sequence.token_s(5, 1.0) == 19.0
    assert sequence.token_s(7, 1.0) == 21.25


@pytest.mark.parametrize("late_s", [0.0, 0.002, 0.015])
def test_tokens_are_late_by_what_the_network_takes_for_exchanges(late_s: float) -> None:
    """One tick a token here; a peer without turns, from which one message a step is late."""
    generate = 42

    async def test(cluster: Cluster) -> None:
        config = msgspec.structs.replace(cluster.decode._config, host="de1-gpu", lanes=("de1/0",))
        peer = Decode(
            config, FakeClock(), FakeTransport("de1-gpu", cluster.network),
            FakeCompute("de1-gpu", cluster.network),
        )  # fmt: skip
        collective = cluster.decode._collective
        hear = collective.hear

        def late(sender: str, message: Join | Barrier, network_s: float = 0.0) -> None:
            hit = isinstance(message, Barrier) and message.layer == 0 and message.combine
            idle_s = 0.0
            if isinstance(message, Barrier):
                taken_s = message.size_bytes / EXCHANGE.bytes_per_s
                idle_s = EXCHANGE.idle_s + message.clear_s + taken_s
            hear(sender, message, idle_s + late_s if hit else 0.0)

        collective.hear = late  # type: ignore[method-assign]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.run)
            turn = cluster.turn(1, 20, 16, generate)
            await cluster.assign(turn, PE_READ)
            await cluster.end_of(1)
            FakeTransport("agents", cluster.network).post("de1-gpu", Drain())
        assert cluster.right(turn)
        end = done(cluster, 1)
        took_s = (end.last_token_s - end.decode_start_s) / (generate - 1)
        # Where in a step the turn began decides on whose side one delay falls.
        assert took_s == pytest.approx(TPOT_S + late_s, abs=1.5 * late_s / (generate - 1) + 1e-6)
        share = len(set(collective.delayed)) / collective.layers
        assert share == (0.5 if late_s else 0.0)  # of two layers a step
        assert peer._paused.sum_s == pytest.approx(cluster.decode._paused.sum_s, abs=late_s + 1e-6)

    with_cluster(test, Setup(de_peers=("de1-gpu",)))
