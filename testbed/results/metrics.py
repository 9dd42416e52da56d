"""From what hosts and kernel wrote down to the numbers of one policy's run."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from engines.agents import TurnRecord
from scheduler.types import Decision
from testbed.bound import Bound
from testbed.errors import RunFailed
from testbed.fabric.wire import KV_CLASS, MODEL_CLASS
from testbed.results import ledger
from testbed.results.balance import balance
from testbed.results.collectives import collectives
from testbed.results.dram import Cached, expected_share, shares
from testbed.results.nodes import node_shares, snic_payload_per_s
from testbed.results.rundata import RunData
from testbed.results.schema import (
    Emulated,
    NetworkChange,
    PolicyResult,
    SchedulerRestart,
    Spread,
)
from testbed.results.timing import evidence
from testbed.results.utilisation import utilisation
from testbed.results.windows import (
    agents_config,
    arrivals_window,
    begun_within,
    entry_rate,
    offered_turns_per_s,
    steady_window,
    turns_not_begun,
)
from testbed.workload import Load


def measure(
    run: RunData, limit: Callable[[Sequence[Load], float], Bound], queue_turns: int
) -> PolicyResult:
    """The result; `queue_turns` waiting turns are what the pipeline itself can hold.

    Throughput counts turns that enter decode in the steady window. `limit` gives the bound of just
    these, and of the turns a second that agents bring: a cluster that fills up has other mean
    turns than the workload as a whole.
    """
    done = [turn for turn in run.turns if turn.done_s and not turn.reason]
    if not run.turns:
        raise RunFailed("no agent began a turn in time; choose a longer workload.window_s")
    config = agents_config(run.plan)
    not_begun = turns_not_begun(config, run.turns)
    open_loop = arrivals_window(config, run.turns)
    window = begun_within(config, open_loop or steady_window(run.turns, queue_turns))
    steady = [turn for turn in run.turns if window[0] < turn.decode_start_s <= window[1]]
    throughput = entry_rate(np.sort([turn.decode_start_s for turn in steady]), window)
    if open_loop and steady:  # arrivals come in no clumps, and these may not beat what was offered
        throughput = len(steady) / (window[1] - window[0])
    offered = offered_turns_per_s(config, run.turns, window)
    snic = snic_payload_per_s(run, window)
    decided = [run.decisions[t.request.id] for t in steady if t.request.id in run.decisions]
    from_dram, dram_hits = shares(decided, run.cached, config.block_tokens)
    nodes = node_shares(run, window, snic, from_dram)
    prefill = [shares for name, shares in nodes.items() if name.startswith("pe")]
    lines = port_lines(run)
    ttft = spread([turn.first_token_s - turn.submitted_s for turn in done])
    tpot = spread(
        [
            (turn.done_s - turn.decode_start_s) / (turn.request.generate_tokens - 1)
            for turn in done
            if turn.request.generate_tokens > 1
        ]
    )
    jct = spread(job_times_s(done))
    scale = run.plan.world.time_scale
    cpu = cpu_ms_by_role(run, len(done))
    return PolicyResult(
        completed_turns=len(done),
        failed_turns=sum(len(agent.turns) for agent in config.agents) - len(done) - not_begun,
        turns_not_begun=not_begun,
        tokens_checked=sum(truth.tokens_checked for truth in run.truths),
        tokens_equal=sum(truth.tokens_equal for truth in run.truths),
        kv_checked=sum(truth.kv_equal is not None for truth in run.truths),
        kv_equal=sum(truth.kv_equal is True for truth in run.truths),
        throughput_turns_per_s=throughput,
        window_s=window,
        ttft_s=ttft,
        ttst_s=spread([turn.second_token_s - turn.first_token_s for turn in done]),
        tpot_s=tpot,
        jct_s=jct,
        dram_hit_share=dram_hits,
        dram_expected_share=expected_share(decided),
        path_share=path_share(list(run.decisions.values())),
        snic_utilisation={node: shares.snic for node, shares in nodes.items()},
        snic_balance=balance(run.plan, run.samples, run.accounts["sched"].decided, window),
        gpu_busy_share=float(np.mean([shares.gpu_busy for shares in prefill])),
        gpu_waiting_for_kv_share=float(np.mean([s.gpu_waiting_for_kv for s in prefill])),
        nodes=nodes,
        utilisation=utilisation(run.plan, run.samples, window),
        bytes=interface_bytes(run),
        model_bytes={
            link[:-1]: classes.get(MODEL_CLASS, 0)
            for link, classes in run.samples.class_bytes.items()
            if link.endswith(">")
        },
        retransmitted_bytes=sum(host.retransmitted_bytes for host in run.accounts.values()),
        bound=limit([_load(turn, run.cached) for turn in steady or run.turns], offered),
        persisted_then_hit_blocks=sum(turn.own_hit_blocks for turn in done),
        cpu_ms_per_turn=sum(cpu.values()),
        cpu_ms_by_role=cpu,
        network_up_s=run.samples.network_up_s,
        virtual_s_per_wall_s=run.virtual_s / run.wall_s if run.wall_s else 0.0,
        turns_per_wall_s=len(done) / run.wall_s if run.wall_s else 0.0,
        memory_bytes=sum(host.memory_bytes for host in run.accounts.values()),
        emulated=Emulated(
            throughput / scale,
            _times(ttft, scale),
            _times(tpot, scale),
            _times(jct, scale),
            {node: rate * 8 for node, rate in snic.items()},
        ),
        delay_by=run.samples.delay_by,
        delay_late_s=delay_late_s(run),
        ledger=lines,
        failures=dict(Counter(turn.reason for turn in run.turns if turn.reason)),
        restarts=[
            SchedulerRestart(
                one.lost_s, one.resumed_s - one.lost_s, one.taken_over, one.repeated, one.undecided
            )
            for one in run.accounts["sched"].restarts
        ],
        timing=evidence(run, window),
        changes=[
            NetworkChange((one.at_monotonic_s - run.samples.start_monotonic_s) / scale, one.what)
            for one in run.samples.changes
        ],
        collectives=collectives(run.plan, run.accounts, steady, window),
    )


def _load(turn: TurnRecord, found: Cached) -> Load:
    request = turn.request
    cached_tokens = sum(found.get(request.id, {}).values())
    return Load(request.prompt_tokens, request.hit_tokens, request.generate_tokens, cached_tokens)


def spread(values: Sequence[float]) -> Spread:
    """Mean, median and 99th percentile; zeros if there is nothing to describe."""
    if not values:
        return Spread(0.0, 0.0, 0.0)
    p50, p99 = np.percentile(values, [50, 99])
    return Spread(float(np.mean(values)), float(p50), float(p99))


def job_times_s(done: Sequence[TurnRecord]) -> list[float]:
    """JCT per agent: from its first turn's submission to its last turn's last token."""
    begin: dict[int, float] = {}
    end: dict[int, float] = {}
    for turn in done:
        agent = turn.request.agent
        begin[agent] = min(begin.get(agent, turn.submitted_s), turn.submitted_s)
        end[agent] = max(end.get(agent, 0.0), turn.done_s)
    return [end[agent] - begin[agent] for agent in begin]


def path_share(decisions: Sequence[Decision]) -> dict[str, float]:
    """Share of the blocks read on either side."""
    count = Counter({"pe": 0, "de": 0})
    for decision in decisions:
        for read in decision.reads:
            count[read.side.value] += read.count
    total = sum(count.values()) or 1
    return {side: blocks / total for side, blocks in count.items()}


def port_lines(run: RunData) -> list[ledger.PortLine]:
    """The ledger of the whole run: all turns that completed, and the payload of the KV class."""
    decisions = run.decisions
    turns = [
        (turn.request, decisions[turn.request.id])
        for turn in run.turns
        if turn.done_s and not turn.reason
    ]
    counted: Counter[ledger.Port] = Counter()
    storages = run.storages
    for link, classes in run.samples.class_bytes.items():
        host, nic = link[:-1].split(":")
        owner = ledger.STORAGE if host in storages else host
        counted[owner, nic, "tx" if link.endswith(">") else "rx"] += classes[KV_CLASS]
    wanted = ledger.expected(turns, run.plan.world.layout, run.engine_hosts, run.cached)
    return ledger.compare(wanted, counted)


def interface_bytes(run: RunData) -> dict[str, int]:
    """Payload that the kernel counted on each interface over the run, all classes."""
    found = {}
    for port in run.samples.samples[-1].ports:
        found[f"{port.host}:{port.nic}:rx"] = port.rx_payload_bytes
        found[f"{port.host}:{port.nic}:tx"] = port.tx_payload_bytes
    return found


def cpu_ms_by_role(run: RunData, turns: int) -> dict[str, float]:
    """CPU milliseconds per completed turn, by role: where the machine's time goes."""
    total: dict[str, float] = {}
    for host in run.accounts.values():
        role = host.role.removesuffix("Config").lower()
        total[role] = total.get(role, 0.0) + 1000 * host.run_cpu_s / max(1, turns)
    return total


def delay_late_s(run: RunData) -> float:
    """How much longer than asked for hosts held what had a delay, on average."""
    accounts = [host.transport for host in run.accounts.values()]
    held = sum(account.get("held", 0) for account in accounts)
    late_us = sum(account.get("held_late_us", 0) for account in accounts)
    return late_us * 1e-6 / held if held else 0.0


def _times(values: Spread, factor: float) -> Spread:
    return Spread(values.mean * factor, values.p50 * factor, values.p99 * factor)
