"""Forwards: lockstep, chunks, what overlaps layerwise and what `basic` does one after the other."""

import anyio
import msgspec
import pytest
from fake_cluster import LAYERWISE, Cluster, Setup, with_cluster
from fakes import LAYERS, FakeClock, FakeCompute, FakeTransport, Network

from engines.config import GpuTime
from engines.messages import Barrier, Drain, FirstToken, LayerDone, LayerLoaded, Pull, TurnFailed
from engines.prefill import Prefill
from engines.prefill_turn import Forward
from engines.seams.transport import TrafficClass
from scheduler.policy import Traits
from scheduler.types import ReadExtent, Side

GPU_S = 0.01  # a token
BASIC = Traits(layerwise=False, max_tokens=6)  # what a turn of 22 tokens and 16 hits appends
PE_READ = ReadExtent(Side.PE, 0, 4)


def times(network: Network, kind: type, request: int) -> list[float]:
    return [
        sent.at_s
        for sent in network.messages(kind)
        if getattr(sent.message, "request", None) == request
    ]


def test_lanes_in_lockstep_wait_for_the_slowest() -> None:
    async def test(cluster: Cluster) -> None:
        short, long = cluster.turn(1, 8, 0, 4), cluster.turn(2, 40, 0, 4)
        await cluster.assign(cluster.turn(3, 20, 0, 4))
        await anyio.sleep(0.001)  # the others queue behind it
        await cluster.assign(short, lane=0)
        await cluster.assign(long, lane=1)
        await cluster.end_of(1, 2, 3)
        assert cluster.right(short) and cluster.right(long)

    cluster = with_cluster(test, Setup(lanes=2))
    before, forward = cluster.prefill.forwards
    assert forward.begin_s == before.end_s
    assert forward.compute_s == pytest.approx(40 * GPU_S)
    assert forward.lanes_s == pytest.approx((8 * GPU_S, 40 * GPU_S))
    first, second = (times(cluster.network, FirstToken, n)[0] for n in (1, 2))
    assert first == second


def test_turns_of_one_lane_add_up() -> None:
    async def test(cluster: Cluster) -> None:
        for number in (1, 2, 3):
            await cluster.assign(cluster.turn(number, 20, 0, 4))
            await anyio.sleep(0.001)  # the others queue behind the first one
        await cluster.end_of(1, 2, 3)

    _, forward = with_cluster(test).prefill.forwards
    assert forward.compute_s == pytest.approx(40 * GPU_S)
    assert forward.lanes_s == pytest.approx((40 * GPU_S,))


def test_a_batch_holds_only_what_was_there_at_its_start() -> None:
    async def test(cluster: Cluster) -> None:
        for number in (1, 2):
            await cluster.assign(cluster.turn(number, 22, 16, 4), PE_READ)
            await anyio.sleep(0.02)
        await cluster.end_of(1, 2)

    # The second turn's KV comes while the first one is computed.
    first, second = with_cluster(test).prefill.forwards
    assert first.lanes_s == second.lanes_s == pytest.approx((6 * GPU_S,))
    assert second.begin_s == pytest.approx(first.end_s)


def test_a_lane_is_hungry_while_its_turn_waits_for_kv_and_another_computes() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.assign(cluster.turn(2, 22, 16, 4), PE_READ, lane=1)
        await cluster.assign(cluster.turn(1, 20, 0, 4), lane=0)
        await cluster.end_of(1, 2)

    first, second = with_cluster(test, Setup(lanes=2, token_layer_s=0.02)).prefill.forwards
    assert first.lanes_s == pytest.approx((20 * GPU_S, 0.0))
    assert first.hungry_s == pytest.approx(20 * GPU_S)
    assert second.hungry_s == 0.0 and second.starved


def test_a_prompt_over_the_quota_is_computed_in_chunks_with_the_right_total() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, 46, 16, 9)
        await cluster.assign(turn, PE_READ)
        await cluster.end_of(1)
        assert cluster.right(turn)

    quota = msgspec.structs.replace(LAYERWISE, quota_s=0.075)
    cluster = with_cluster(test, Setup(traits=quota))
    jobs = [jobs[0] for _, layer, jobs in cluster.computes["pe0-gpu"].prefills if layer == 0]
    assert [(job.first, job.last) for job in jobs] == [
        (16, 23), (23, 30), (30, 37), (37, 44), (44, 46),
    ]  # fmt: skip
    assert [job.final for job in jobs] == [False, False, False, False, True]
    # KV leaves once, and the client hears of one first token, at the end.
    assert len(cluster.network.messages(LayerDone)) == LAYERS
    (first_s,) = times(cluster.network, FirstToken, 1)
    assert first_s == cluster.computes["pe0-gpu"].prefills[-1][0]
    assert cluster.prefill.forwards[-1].end_s == pytest.approx(first_s)


def test_layerwise_computes_a_layer_while_later_ones_arrive_and_sends_each_at_once() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, 22, 16, 4)
        await cluster.assign(turn, PE_READ)
        await cluster.end_of(1)
        assert cluster.right(turn)

    # A layer of hits takes 0.32 s to load, and 0.03 s to compute.
    cluster = with_cluster(test, Setup(token_layer_s=0.02))
    loaded, done = (times(cluster.network, kind, 1) for kind in (LayerLoaded, LayerDone))
    computed = [at_s for at_s, _, _ in cluster.computes["pe0-gpu"].prefills]
    assert loaded[0] < computed[0] < loaded[1] < computed[1]
    assert computed[1] == pytest.approx(loaded[1] + 0.03)
    assert done[0] == pytest.approx(computed[0] + 22 * 0.02)
    (forward,) = cluster.prefill.forwards
    assert forward.end_s - forward.begin_s == pytest.approx(0.32 + 0.03)
    assert forward.compute_s == pytest.approx(0.06) and forward.starved


def test_basic_loads_computes_and_sends_one_after_the_other() -> None:
    async def test(cluster: Cluster) -> None:
        turns = [cluster.turn(number, 22, 16, 4) for number in (1, 2)]
        for turn in turns:
            await cluster.assign(turn, PE_READ)
        await cluster.end_of(1, 2)
        assert all(cluster.right(turn) for turn in turns)

    cluster = with_cluster(test, Setup(traits=BASIC))
    network = cluster.network
    computed = {
        n: [at for at, _, jobs in cluster.computes["pe0-gpu"].prefills if jobs[0].request == n]
        for n in (1, 2)
    }
    for number in (1, 2):
        loaded = max(times(network, LayerLoaded, number))
        sends = [s.at_s - 22 * 0.001 for s in network.messages(LayerDone)]
        assert loaded < min(computed[number])
        assert max(computed[number]) <= max(sends)
    # The next turn's H2D waits until the last one's KV has left.
    assert max(times(network, LayerDone, 1)) <= min(times(network, Pull, 2))
    assert min(s for s in times(network, LayerDone, 1)) >= max(computed[1]) + 22 * 0.001 - 1e-9
    assert cluster.nothing_held()


def test_a_turn_that_basic_cuts_is_loaded_and_sent_once() -> None:
    async def test(cluster: Cluster) -> None:
        turn = cluster.turn(1, 31, 16, 4)
        await cluster.assign(turn, PE_READ)
        await cluster.end_of(1)
        assert cluster.right(turn)

    cluster = with_cluster(test, Setup(traits=BASIC))
    chunks = [jobs[0] for _, layer, jobs in cluster.computes["pe0-gpu"].prefills if layer == 0]
    assert [(job.first, job.last) for job in chunks] == [(16, 22), (22, 28), (28, 31)]
    assert len(times(cluster.network, Pull, 1)) == 1
    assert len(times(cluster.network, LayerDone, 1)) == LAYERS
    assert cluster.nothing_held()


@pytest.mark.parametrize(("pool_tokens", "batches"), [(400, [3]), (48, [2, 1])])
def test_what_hbm_has_no_room_for_waits_for_the_next_batch(
    pool_tokens: int, batches: list[int]
) -> None:
    """Three turns of six blocks each are ready at once, one a lane."""

    async def test(cluster: Cluster) -> None:
        first = cluster.turn(4, 40, 0, 4)  # the others become ready behind it
        turns = [cluster.turn(number, 22, 16, 4) for number in (1, 2, 3)]
        await cluster.assign(first)
        for lane, turn in enumerate(turns):
            await cluster.assign(turn, PE_READ, lane=lane)
        await cluster.end_of(1, 2, 3, 4)
        assert all(cluster.right(turn) for turn in turns)

    traits = Traits(layerwise=False)
    cluster = with_cluster(test, Setup(traits=traits, lanes=3, pool_tokens=pool_tokens))
    _, *forwards = cluster.prefill.forwards
    assert [sum(lane_s > 0 for lane_s in f.lanes_s) for f in forwards] == batches
    assert cluster.nothing_held()


def test_layerwise_loads_the_next_turn_while_one_is_computed() -> None:
    async def test(cluster: Cluster) -> None:
        for number in (1, 2):
            await cluster.assign(cluster.turn(number, 22, 16, 4), PE_READ)
        await cluster.end_of(1, 2)

    traits = Traits(layerwise=True, max_tokens=6)
    cluster = with_cluster(test, Setup(traits=traits))
    assert min(times(cluster.network, Pull, 2)) < min(times(cluster.network, LayerDone, 1))


def test_an_idle_peer_takes_part_in_every_step() -> None:
    peers: list[Prefill] = []

    async def test(cluster: Cluster) -> None:
        config = msgspec.structs.replace(cluster.prefill._config, host="pe1-gpu", lanes=("pe1/0",))
        peer = Prefill(
            config, FakeClock(), FakeTransport("pe1-gpu", cluster.network),
            FakeCompute("pe1-gpu", cluster.network),
        )  # fmt: skip
        peers.append(peer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.run)
            for number in (1, 2):
                turn = cluster.turn(number, 22, 0, 4)
                await cluster.assign(turn)
                await cluster.end_of(number)
                assert cluster.right(turn)
            FakeTransport("agents", cluster.network).post("pe1-gpu", Drain())

    cluster = with_cluster(test, Setup(pe_peers=("pe1-gpu",)))
    barriers = cluster.network.messages(Barrier)
    assert {sent.traffic_class for sent in barriers} == {TrafficClass.MODEL}
    said = [(s.sender, s.message.step, s.message.layer, s.message.combine) for s in barriers]
    assert sorted(said) == sorted(
        (host, step, layer, combine)
        for host in ("pe0-gpu", "pe1-gpu")
        for step in range(2)
        for layer in range(LAYERS)
        for combine in (False, True)
    )
    (mine, yours) = cluster.prefill.forwards, peers[0].forwards
    assert [f.compute_s for f in yours] == pytest.approx([f.compute_s for f in mine])
    assert [f.lanes_s for f in yours] == [(0.0,), (0.0,)]


@pytest.mark.parametrize("traits", [LAYERWISE, BASIC])
def test_a_turn_without_hits_takes_its_gpu_time_after_a_pause(traits: Traits) -> None:
    async def test(cluster: Cluster) -> None:
        await anyio.sleep(5)
        begin_s = anyio.current_time()
        await cluster.assign(cluster.turn(1, 20, 0, 4))
        await cluster.end_of(1)
        (first_s,) = times(cluster.network, FirstToken, 1)
        assert first_s - begin_s == pytest.approx(20 * GPU_S)

    with_cluster(test, Setup(traits=traits))


def test_a_turn_with_hits_takes_its_gpu_time_after_a_pause() -> None:
    async def test(cluster: Cluster) -> None:
        await anyio.sleep(5)
        await cluster.assign(cluster.turn(1, 20, 16, 4), PE_READ)
        await cluster.end_of(1)
        loaded, first = (times(cluster.network, k, 1) for k in (LayerLoaded, FirstToken))
        assert first[0] - loaded[0] == pytest.approx(4 * GPU_S)

    with_cluster(test, Setup(token_layer_s=0.0001))


def test_a_failed_turn_leaves_its_lane() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.assign(cluster.turn(1, 22, 0, 4))
        FakeTransport("sched", cluster.network).post("pe0-gpu", TurnFailed(2, "lost"))
        lost = cluster.turn(2, 30, 16, 4)
        await cluster.assign(lost, PE_READ)
        FakeTransport("sched", cluster.network).post("pe0-buf", TurnFailed(2, "lost"))
        FakeTransport("sched", cluster.network).post("de0-buf", TurnFailed(2, "lost"))
        await cluster.end_of(1)
        await anyio.sleep(1)

    cluster = with_cluster(test)
    (engine,) = cluster.reports("pe0")[-1].engines
    assert (engine.requests, engine.tokens) == (0, 0)
    assert engine.free_hbm_tokens == cluster.setup.pool_tokens


def test_reports_count_prompts_that_wait_or_run() -> None:
    async def test(cluster: Cluster) -> None:
        for number in (1, 2):
            await cluster.assign(cluster.turn(number, 22, 16, 4), PE_READ)
        await anyio.sleep(1.1)

    # 22 tokens take six slots of four each; a forward takes 12 s.
    cluster = with_cluster(test, Setup(gpu=GpuTime(1.0, 0.0)))
    (engine,) = cluster.reports("pe0")[0].engines
    assert (engine.engine, engine.requests, engine.tokens, engine.seen) == ("pe0/0", 2, 44, 2)
    assert engine.free_hbm_tokens == 400 - 2 * 24


def test_lanes_wait_for_the_slowest_attention_and_share_the_experts() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.assign(cluster.turn(3, 20, 0, 4))
        await anyio.sleep(0.001)  # the others queue behind it
        await cluster.assign(cluster.turn(1, 8, 0, 4), lane=0)
        await cluster.assign(cluster.turn(2, 40, 0, 4), lane=1)
        await cluster.end_of(1, 2, 3)

    gpu = GpuTime(GPU_S, 0.0, 0.4 * GPU_S)
    _, forward = with_cluster(test, Setup(lanes=2, gpu=gpu)).prefill.forwards
    experts_s = 48 * 0.4 * GPU_S / 2
    assert forward.compute_s == pytest.approx(40 * 0.6 * GPU_S + experts_s)
    lanes_s = (8 * 0.6 * GPU_S + experts_s, 40 * 0.6 * GPU_S + experts_s)
    assert forward.lanes_s == pytest.approx(lanes_s)
    assert sum(forward.lanes_s) == pytest.approx(48 * GPU_S)  # nothing is lost in the split


def uneven(lanes: int, traits: Traits) -> list[Forward]:
    """Forwards over turns that append 4 to 32 tokens, dealt to the lanes in turn."""

    async def test(cluster: Cluster) -> None:
        appends = [4, 32, 4, 8, 4, 16, 4, 32, 8, 4, 4, 16, 32, 4, 4, 8]
        await cluster.assign(cluster.turn(99, 10, 0, 1))
        await anyio.sleep(0.001)  # the others queue behind it
        for number, append in enumerate(appends):
            await cluster.assign(cluster.turn(number, append, 0, 1), lane=number % lanes)
        await cluster.end_of(*range(len(appends)))

    return list(with_cluster(test, Setup(lanes=lanes, traits=traits)).prefill.forwards)[1:]


def unevenness(forwards: list[Forward]) -> float:
    """Time of the slowest lane over that of the mean one, of all forwards together."""
    slowest = sum(max(forward.lanes_s) for forward in forwards)
    return slowest / sum(sum(forward.lanes_s) / len(forward.lanes_s) for forward in forwards)


def test_the_quota_evens_lanes_in_lockstep_and_gains_nothing_for_one_gpu_alone() -> None:
    whole = Traits(layerwise=True)
    quota = Traits(layerwise=True, quota_s=0.08)
    without, with_quota = (uneven(4, traits) for traits in (whole, quota))
    # While every lane still has work: after that, one alone is left whatever is packed.
    full = [forward for forward in with_quota if min(forward.lanes_s) > 0]
    assert unevenness(without) > 1.3
    assert unevenness(full) < 1.05
    ends_s = [uneven(1, traits)[-1].end_s for traits in (whole, quota)]
    assert ends_s[0] == pytest.approx(ends_s[1])
