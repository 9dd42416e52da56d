"""What each node of a run did with its time: its SNIC, its GPUs, its memory."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from engines.config import DecodeConfig, PrefillConfig
from engines.prefill_turn import Forward
from testbed.results.balance import snic_rates
from testbed.results.rundata import RunData
from testbed.results.schema import (
    NodeShares,
)


def snic_payload_per_s(run: RunData, window: tuple[float, float]) -> dict[str, float]:
    """Bytes per real second into each node's SNIC over the window, by kernel counters."""
    nodes, rates = snic_rates(run.plan, run.samples, window)
    return {node: float(rate) for node, rate in zip(nodes, rates[0], strict=True)}


def node_shares(
    run: RunData,
    window: tuple[float, float],
    snic: dict[str, float],
    from_dram: dict[str, float],
) -> dict[str, NodeShares]:
    """How busy each node was over the window; `snic` are its rates, `from_dram` shares of reads."""
    wires = run.plan.wires
    rates = {node: wires.snic_overrides_bps.get(f"{node}-buf", wires.snic_bps) / 8 for node in snic}
    gpu: dict[str, list[tuple[float, float]]] = {node: [] for node in snic}
    spans = _decode_spans(run)
    for host in run.plan.hosts:
        role = host.role
        if isinstance(role, PrefillConfig):
            forwards = run.accounts[role.host].forwards
            node = role.lanes[0].split("/")[0]
            gpu[node].append(_prefill_shares(forwards, len(role.lanes), window))
        elif isinstance(role, DecodeConfig):
            node = role.lanes[0].split("/")[0]
            gpu[node].append((_decode_share(spans, role.lanes, window), 0.0))
    held = _hbm_held(run, window)
    return {
        node: NodeShares(
            snic[node] / rates[node],
            float(np.mean([busy for busy, _ in gpu[node]])),
            max(0.0, float(np.mean([waiting for _, waiting in gpu[node]]))),
            held.get(node, 0.0),
            from_dram.get(node, 0.0),
        )
        for node in sorted(snic, key=lambda name: (name[:2] != "pe", int(name[2:])))
    }


def _prefill_shares(
    forwards: Sequence[Forward], lanes: int, window: tuple[float, float]
) -> tuple[float, float]:
    """Busy and waiting for KV: forwards count as far as they lie in the window."""
    length_s = max(window[1] - window[0], 1e-9)
    busy_s = waiting_s = 0.0
    before_s = 0.0
    for forward in forwards:
        span_s = forward.end_s - forward.begin_s
        inside_s = _overlap(window, (forward.begin_s, forward.end_s))
        if span_s > 0:
            busy_s += sum(forward.lanes_s) / lanes * inside_s / span_s
            waits_s = span_s - forward.compute_s + forward.hungry_s / lanes
            waiting_s += waits_s * inside_s / span_s
        if forward.starved:
            waiting_s += _overlap(window, (before_s, forward.begin_s))
        before_s = forward.end_s
    return busy_s / length_s, waiting_s / length_s


def _hbm_held(run: RunData, window: tuple[float, float]) -> dict[str, float]:
    """Share of each decode node's HBM that contexts held, from decode's start to its end."""
    capacity: Counter[str] = Counter()
    for host in run.plan.hosts:
        if isinstance(host.role, DecodeConfig):
            node = host.role.lanes[0].split("/")[0]
            capacity[node] += len(host.role.lanes) * host.role.lane_tokens
    held: Counter[str] = Counter()
    decisions = run.decisions
    for turn in run.turns:
        decision = decisions.get(turn.request.id)
        if turn.done_s and decision is not None:
            seconds = _overlap(window, (turn.decode_start_s, turn.done_s))
            held[decision.de.split("/")[0]] += round(turn.request.context_tokens * seconds)
    length_s = max(window[1] - window[0], 1e-9)
    return {node: held[node] / tokens / length_s for node, tokens in capacity.items()}


def _decode_spans(run: RunData) -> dict[str, list[tuple[float, float]]]:
    """When each lane had a sequence in decode, one span a turn."""
    decisions = run.decisions
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for turn in run.turns:
        decision = decisions.get(turn.request.id)
        if turn.done_s and decision is not None:
            spans[decision.de].append((turn.decode_start_s, turn.done_s))
    return spans


def _decode_share(
    spans: Mapping[str, list[tuple[float, float]]],
    lanes: tuple[str, ...],
    window: tuple[float, float],
) -> float:
    """Share of lane time with at least one sequence in decode."""
    busy_s = sum(_union_s(spans.get(lane, []), window) for lane in lanes)
    return busy_s / len(lanes) / max(window[1] - window[0], 1e-9)


def _union_s(spans: list[tuple[float, float]], window: tuple[float, float]) -> float:
    total = 0.0
    reached = window[0]
    for begin, end in sorted(spans):
        total += max(0.0, min(end, window[1]) - max(begin, reached))
        reached = max(reached, end)
    return total


def _overlap(window: tuple[float, float], span: tuple[float, float]) -> float:
    return max(0.0, min(window[1], span[1]) - max(window[0], span[0]))
