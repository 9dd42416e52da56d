"""From timelines made by hand to the numbers of a run."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.agents import TurnRecord
from engines.config import DecodeConfig, PrefillConfig
from engines.prefill_turn import Forward
from engines.service import Decided
from scheduler.types import Decision, ReadExtent, Request, Side
from testbed.bound import Bound
from testbed.errors import RunFailed
from testbed.policies import choose_one
from testbed.results import metrics
from testbed.results.metrics import job_times_s, measure, path_share, spread
from testbed.results.nodes import node_shares, snic_payload_per_s
from testbed.results.rundata import RunData, load
from testbed.results.windows import entry_rate, steady_window
from testbed.spec import load_experiment
from testbed.workload import build_workload
from testbed.worlds import account
from testbed.worlds.account import HostAccount, TurnTruth
from testbed.worlds.layout import Layout
from testbed.worlds.samples import PortBytes, Sample, Samples

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"


def turn(
    number: int,
    submitted_s: float = 0.0,
    first_s: float = 0.0,
    done_s: float = 0.0,
    agent: int | None = None,
) -> TurnRecord:
    """By default each turn is the only one of an agent of its own."""
    agent = number if agent is None else agent
    request = Request(number, agent, 0, prompt_tokens=640, hit_tokens=512, generate_tokens=101)
    return TurnRecord(
        request, number, submitted_s, first_s, first_s, first_s + 0.04 if first_s else 0.0, done_s
    )


def test_window_begins_when_the_pipeline_is_full_and_ends_when_the_queue_is_dry() -> None:
    # Ten turns wait at 0 and come out one a second; the pipeline itself holds two.
    turns = [turn(n, 0.0, float(n)) for n in range(1, 11)]
    assert steady_window(turns, 2) == (3.0, 8.0)


def test_turns_that_follow_keep_the_queue_from_running_dry() -> None:
    turns = [turn(n, 0.0, float(n)) for n in range(1, 11)]
    later = [turn(10 + n, 5.0, 10.0 + n) for n in range(1, 11)]
    assert steady_window(turns + later, 2) == (3.0, 18.0)


def test_the_window_ends_where_the_queue_is_dry_for_the_first_time() -> None:
    turns = [turn(n, 0.0, float(n)) for n in range(1, 11)]
    later = [turn(10 + n, 9.5, 10.0 + n) for n in range(1, 11)]
    assert steady_window(turns + later, 2) == (3.0, 8.0)


def test_a_closed_loop_without_a_queue_is_steady_until_its_agents_leave() -> None:
    # Ten agents, each a turn of ten seconds after the other: nobody ever waits.
    turns = [
        turn(10 * lap + n, 10.0 * lap + n, 10.0 * lap + n + 0.1, 10.0 * lap + n + 10, n)
        for n in range(10)
        for lap in range(5)
    ]
    begin_s, end_s = steady_window(turns, 2)
    assert begin_s == pytest.approx(13, abs=2) and end_s == pytest.approx(49.1)


def test_a_turn_that_failed_counts_as_waiting_but_not_as_a_token() -> None:
    turns = [turn(n, 0.0, float(n)) for n in range(1, 11)]
    assert steady_window([*turns, turn(11)], 2) == (3.0, 9.0)


def test_a_run_too_short_for_a_steady_state_counts_as_a_whole() -> None:
    assert steady_window([], 2) == (0.0, 0.0)
    assert steady_window([turn(1, 0.0, 4.0)], 2) == (0.0, 4.0)
    assert steady_window([turn(1)], 2) == (0.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), max_size=40), st.integers(0, 20))
def test_a_window_never_ends_before_it_begins(spans: list[tuple[float, float]], queue: int) -> None:
    turns = [turn(n, begin, begin + length) for n, (begin, length) in enumerate(spans)]
    begin_s, end_s = steady_window(turns, queue)
    assert begin_s == 0 or end_s - begin_s >= 2
    if turns:
        assert {begin_s, end_s} <= {0.0, *(record.first_token_s for record in turns)}


def test_the_window_waits_until_as_many_contexts_leave_decode_as_enter_it() -> None:
    turns = [turn(n, 0.0, float(n), n + 6.5) for n in range(1, 21)]
    assert steady_window(turns, 2) == (3.0 + 7.0, 18.0)


@pytest.mark.parametrize("ahead", range(10))
def test_turns_that_enter_in_clumps_are_counted_without_bias(ahead: int) -> None:
    # Ten turns at each full second, wherever in a clump the pipeline happens to be full or dry.
    turns = [turn(n, 0.0, n // 10 + n % 10 * 1e-3, n // 10 + 2.25) for n in range(10, 410)]
    begin_s, end_s = steady_window(turns, 20 + ahead)
    starts = np.array([record.decode_start_s for record in turns])
    inside = starts[(starts > begin_s) & (starts <= end_s)]
    assert entry_rate(inside, (begin_s, end_s)) == pytest.approx(10, rel=0.005)


def test_entries_of_a_run_too_short_are_counted() -> None:
    assert entry_rate(np.array([1.0, 1.5, 2.0]), (0.0, 2.0)) == 1.5
    assert entry_rate(np.array([3.0, 3.0]), (1.0, 3.0)) == 1.0
    assert entry_rate(np.array([]), (0.0, 0.0)) == 0.0


def test_spread() -> None:
    values = spread([float(n) for n in range(101)])
    assert (values.mean, values.p50, values.p99) == (50.0, 50.0, 99.0)
    assert spread([]) == metrics.Spread(0.0, 0.0, 0.0)


def test_job_times_span_an_agents_first_submission_and_last_token() -> None:
    turns = [
        turn(2, 7.0, 8.0, 12.0, agent=4),
        turn(1, 1.0, 2.0, 6.0, agent=4),
        turn(3, 3.0, 4.0, 5.0, agent=9),
    ]
    assert sorted(job_times_s(turns)) == [2.0, 11.0]


def test_path_share_counts_blocks() -> None:
    reads = (ReadExtent(Side.PE, 0, 1), ReadExtent(Side.DE, 1, 5))
    decisions = [
        Decision(1, 1, "pe0/0", "de0/0", reads),
        Decision(2, 2, "pe0/0", "de0/0", (ReadExtent(Side.PE, 0, 2),)),
    ]
    assert path_share(decisions) == {"pe": 0.375, "de": 0.625}
    assert path_share([]) == {"pe": 0.0, "de": 0.0}


def run_data() -> RunData:
    """A run of eight turns by hand: 1P1D, two real seconds for each of the cluster's."""
    settings = ["workload.agents=4", "workload.openings=1", "cluster.gpus_per_node=2"]
    experiment = load_experiment(FILE, [*settings, "scale.time_scale=2.0"])
    workload = build_workload(experiment.workload, 0)
    plan = Layout(experiment, workload, choose_one("dualpath"), Path("f"), Path("c")).plan(1)
    turns = [turn(n, 0.0, float(n), n + 3.0, agent=n % 4) for n in range(1, 9)]
    reads = {
        n: (ReadExtent(Side.PE if n % 4 else Side.DE, 0, 8),) for n in range(1, 9)
    }  # a quarter on the DE side
    decided = [Decided(0.0, Decision(n, n, "pe0/0", "de0/1", reads[n])) for n in reads]
    # A second of the first forward waited, and its second lane for two of the other three.
    forwards = [
        Forward(0.0, 4.0, 3.0, (3.0, 1.0), 2.0, False),
        Forward(5.0, 10.0, 5.0, (5.0, 5.0), 0.0, True),
    ]  # fmt: skip
    accounts = {
        "agents": HostAccount("agents", "AgentsConfig", 0.2, 0.0, 10, turns=turns),
        "sched": HostAccount("sched", "ServiceConfig", 0.2, 0.0, 10, decided=decided),
        "pe0-gpu": HostAccount(
            "pe0-gpu", "PrefillConfig", 0.8, 0.0, 10, forwards=forwards,
            compute={"lateness_s": 0.1, "calls": 100, "overruns": 10}, late=[(6.0, 0.1)],
        ),
        "de0-gpu": HostAccount(
            "de0-gpu", "DecodeConfig", 1.2, 0.0, 10, counts={"ticks": 100, "late_ticks": 2}
        ),
        "pe0-buf": HostAccount("pe0-buf", "BufferConfig", 0.3, 0.0, 10, 3000),
        "de0-buf": HostAccount("de0-buf", "BufferConfig", 0.5, 0.0, 10),
    }  # fmt: skip
    samples = [
        Sample(100.0 + 2 * at, ports(at * 1000), 50.0 + 2 * at, 20.0 + 2 * at, 0.0)
        for at in range(0, 11)
    ]
    class_bytes = {
        "pe0-gpu:cnic>": {"1:10": 55, "1:20": 10**9},
        "store0:snic>": {"1:10": 0, "1:20": 30_000},
        "store0:snic<": {"1:10": 0, "1:20": 7},
    }
    truths = [TurnTruth(n, 10, 10, None if n > 2 else True) for n in range(1, 9)]
    return RunData(plan, accounts, Samples(100.0, samples, class_bytes, 0.4, cores=2), truths)


def ports(count: int) -> tuple[PortBytes, ...]:
    return (
        PortBytes("pe0-buf", "snic", count, 0),
        PortBytes("de0-buf", "snic", 2 * count, count),
        PortBytes("store0", "snic", count, 3 * count),
        PortBytes("agents", "mgmt", 10**9, 10**9),
    )


BOUND = Bound(4.0, "SNICs", {"SNICs": 4.0})


def test_measure_a_run_made_by_hand() -> None:
    result = measure(run_data(), lambda *_: BOUND, 1)
    # Decodes start at 1 to 8 s and last three; the first agent leaves when its second one ends.
    assert result.window_s == (5.0, 8.0)
    assert result.throughput_turns_per_s == pytest.approx(1.0)
    assert (result.completed_turns, result.failed_turns) == (8, 0)
    assert (result.tokens_checked, result.tokens_equal) == (80, 80)
    assert (result.kv_checked, result.kv_equal) == (2, 2)
    assert result.ttft_s.mean == 4.5
    assert result.ttst_s.mean == pytest.approx(0.04)
    assert result.tpot_s.mean == pytest.approx(0.03)  # three seconds for a hundred more tokens
    assert result.jct_s.mean == pytest.approx((10 + 11 + 8 + 9) / 4)
    assert result.path_share == {"pe": 0.75, "de": 0.25}
    assert result.model_bytes == {"pe0-gpu:cnic": 55, "store0:snic": 0}
    assert result.cpu_ms_by_role["prefill"] == pytest.approx(100)
    assert result.cpu_ms_by_role["buffer"] == pytest.approx(100)
    assert result.memory_bytes == 60
    assert result.retransmitted_bytes == 3000
    assert result.emulated.throughput_turns_per_s == pytest.approx(0.5)
    assert result.emulated.ttft_s.mean == 9.0


def test_nodes_show_what_nic_and_gpus_did_in_the_window() -> None:
    run = run_data()
    window = (2.0, 7.0)
    nodes = node_shares(run, window, snic_payload_per_s(run, window), {"de0": 0.25})
    assert list(nodes) == ["pe0", "de0"]
    # 1000 bytes each target second, that is 500 a real one.
    assert nodes["pe0"].snic == pytest.approx(500 / (run.plan.wires.snic_bps / 8))
    assert nodes["de0"].snic == pytest.approx(2 * nodes["pe0"].snic)
    # In (2, 7): half of the first forward, two fifths of the second.
    assert nodes["pe0"].gpu_busy == pytest.approx((4 / 2 * 2 / 4 + 10 / 2 * 2 / 5) / 5)
    # The first one waited a second, and one lane of two for two more; then the starved gap.
    assert nodes["pe0"].gpu_waiting_for_kv == pytest.approx(((1 + 2 / 2) * 2 / 4 + 1) / 5)
    # One of two decode lanes has a sequence all the time: turns 1 to 6 in the window.
    assert nodes["de0"].gpu_busy == pytest.approx(0.5)
    seconds = sum(min(7, n + 3) - max(2, n) for n in range(1, 7))
    (decode,) = (h.role for h in run.plan.hosts if isinstance(h.role, DecodeConfig))
    held = 741 * seconds / (2 * decode.lane_tokens) / 5
    assert nodes["de0"].hbm_held == pytest.approx(held, rel=1e-3)
    assert (nodes["pe0"].dram_hits, nodes["de0"].dram_hits) == (0.0, 0.25)


def test_the_ledger_counts_the_kv_class_and_joins_storage_hosts() -> None:
    run = run_data()
    lines = {line.port: line for line in metrics.port_lines(run)}
    assert lines["storage:snic:tx"].counted_bytes == 30_000
    assert lines["storage:snic:tx"].expected_bytes == 8 * 8 * run.plan.world.layout.block_bytes
    assert lines["storage:snic:rx"].counted_bytes == 7
    assert lines["pe0-gpu:cnic:tx"].counted_bytes == 10**9
    assert not any("store0" in port for port in lines)


def test_bytes_of_interfaces_are_those_of_the_last_sample() -> None:
    assert metrics.interface_bytes(run_data())["de0-buf:snic:rx"] == 20_000


def test_a_failed_turn_is_neither_done_nor_in_the_ledger() -> None:
    run = run_data()
    before = {line.port: line.expected_bytes for line in metrics.port_lines(run)}
    run.turns[2].reason = "damaged"
    result = measure(run, lambda *_: BOUND, 1)
    assert (result.completed_turns, result.failed_turns) == (7, 1)
    assert result.failures == {"damaged": 1}
    (tx,) = (x.expected_bytes for x in result.ledger if x.port == "storage:snic:tx")
    assert tx == before["storage:snic:tx"] * 7 // 8


def test_turns_that_were_never_submitted_are_failed_ones() -> None:
    run = run_data()
    del run.turns[6:]
    result = measure(run, lambda *_: BOUND, 1)
    assert (result.completed_turns, result.failed_turns) == (6, 2)


def test_a_run_is_read_back_from_its_folder(tmp_path: Path) -> None:
    run = run_data()
    for part in ("accounts", "truth"):
        (tmp_path / part).mkdir()
    (tmp_path / "plan.msgpack").write_bytes(msgspec.msgpack.encode(run.plan))
    (tmp_path / "samples.msgpack").write_bytes(msgspec.msgpack.encode(run.samples))
    for own in run.accounts.values():
        account.write(tmp_path / "accounts", own)
    (tmp_path / "truth" / "0.msgpack").write_bytes(msgspec.msgpack.encode(run.truths[:3]))
    (tmp_path / "truth" / "1.msgpack").write_bytes(msgspec.msgpack.encode(run.truths[3:]))
    found = load(tmp_path)
    found.truths.sort(key=lambda truth: truth.request)
    assert found == run


def test_a_plan_without_a_scheduler_is_refused() -> None:
    run = run_data()
    kept = tuple(h for h in run.plan.hosts if isinstance(h.role, PrefillConfig | DecodeConfig))
    run.plan = msgspec.structs.replace(run.plan, hosts=kept)
    with pytest.raises(RunFailed, match="no scheduler host"):
        _ = run.engine_hosts
