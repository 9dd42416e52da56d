"""The published result of a run or comparison; all in target units, emulated ones beside."""

import json
from typing import Any

import msgspec

from testbed.bound import Bound
from testbed.results.balance import Balance
from testbed.results.collectives import Collectives
from testbed.results.ledger import PortLine
from testbed.worlds.others import Program


class Spread(msgspec.Struct, frozen=True):
    """A distribution in three numbers."""

    mean: float
    p50: float
    p99: float


class Emulated(msgspec.Struct, frozen=True):
    """The same measurements in the emulated world's own units (real seconds, emulated bytes)."""

    throughput_turns_per_s: float
    ttft_s: Spread
    tpot_s: Spread
    jct_s: Spread
    snic_bps: dict[str, float]


class NodeShares(msgspec.Struct, frozen=True):
    """One node over the steady window, each a share of it; `hbm_held` is that of decode HBM.

    `dram_hits` is the share of the hit tokens that the node served which were in its DRAM cache.
    """

    snic: float
    gpu_busy: float
    gpu_waiting_for_kv: float
    hbm_held: float
    dram_hits: float = 0.0


class SchedulerRestart(msgspec.Struct, frozen=True):
    """A loss of all that the scheduler knew: nothing was decided for `away_s` from `at_s` on.

    `taken_over` turns were assigned and stayed so, `repeated` of their assignments had not come
    everywhere; `undecided` turns nobody had.
    """

    at_s: float
    away_s: float
    taken_over: int
    repeated: int
    undecided: int


class Sign(msgspec.Struct, frozen=True):
    """One number that says how far a run's times can be believed; less is better.

    Above `warning` it is told, above `limit` it makes the timing inconclusive.
    """

    value: float
    warning: float
    limit: float


class Timing(msgspec.Struct, frozen=True):
    """The evidence for an emulated run's timing verdict.

    Each share is the worse of the whole run's and the steady window's. `lateness` sums how late
    the layers of one prefill host were, over the time; `overruns` is the share of layers that took
    longer than modelled, `late_ticks` that of a host's decode ticks a whole period late, and
    `run_delay` of the time that a host waited for a CPU, each of the worst host. `overshoot_p99_s`
    and `overshoot_max_s` say how late a sleeper of 1 ms woke up, in target seconds. `busy` and
    `foreign` are shares of the `cores` that the run may use; these two count against a run only
    if something `delayed` it, or if others used most of them. `shortfall` is what the worst link
    lacked of its rate while its queue cannot have been empty, less what the few packets of the
    sample allow. `model_drops` are packets of the class of collectives. The rest is shown and
    judges nothing: `goodput` is each such link's share of its rate, `drops` are packets by link
    and class, and `others` the programs that used most CPU beside the run. Of `notes` none
    makes the timing inconclusive.
    """

    cores: int
    lateness: Sign
    overruns: Sign
    late_ticks: Sign
    run_delay: Sign
    overshoot_p99_s: Sign
    busy: Sign
    foreign: Sign
    shortfall: Sign
    model_drops: Sign
    delayed: bool
    overshoot_max_s: float
    stolen_share: float
    run_delays: dict[str, float]
    goodput: dict[str, float]
    drops: dict[str, dict[str, int]]
    others: list[Program]
    notes: tuple[str, ...]


class NetworkChange(msgspec.Struct, frozen=True):
    """Somebody changed a link, the classes or a mark of a run that went on; target seconds."""

    at_s: float
    what: str


class PolicyResult(msgspec.Struct, frozen=True):
    """One policy's run.

    Planned turns are completed, failed, or not begun: `turns_not_begun` are those that the end of
    the workload's window left. `tokens_checked` and `tokens_equal` are counts; `window_s` is the
    steady window, in target seconds from the start; `persisted_then_hit_blocks` are hits on blocks
    that this run wrote. `dram_hit_share` is the share of all hit tokens, of the turns of the steady
    window, that came out of DRAM caches, `dram_expected_share` what the scheduler expected of it.
    `utilisation` is the share of capacity, over the steady window, of each direction of each data
    link (`owner:nic:rx` or `:tx`, as its owner sees it) and of each node's DRAM (`node:dram`).
    `bytes` are payload bytes per interface and direction, `model_bytes` what each interface sent
    in the class of collectives, `retransmitted_bytes` what all hosts sent once more, at most.
    `delay_by` says who made the delays of links: "none" (there are none), "netem" (the kernel),
    "due-time" (the transport), or "modelled". By due time, what arrived was held `delay_late_s`
    longer than its delay on average.
    `collectives` has what collectives took on the network, by side ("pe" and "de"), where an engine
    group spans hosts.
    The two rates `per_wall_s` say how fast a virtual world went, and are 0 elsewhere. `timing` is
    the evidence for the timing verdict; there is none of a virtual world.
    """

    completed_turns: int
    failed_turns: int
    turns_not_begun: int
    tokens_checked: int
    tokens_equal: int
    kv_checked: int
    kv_equal: int
    throughput_turns_per_s: float
    window_s: tuple[float, float]
    ttft_s: Spread
    ttst_s: Spread
    tpot_s: Spread
    jct_s: Spread
    dram_hit_share: float
    dram_expected_share: float
    path_share: dict[str, float]
    snic_utilisation: dict[str, float]
    snic_balance: Balance
    gpu_busy_share: float
    gpu_waiting_for_kv_share: float
    nodes: dict[str, NodeShares]
    utilisation: dict[str, float]
    bytes: dict[str, int]
    model_bytes: dict[str, int]
    retransmitted_bytes: int
    bound: Bound
    persisted_then_hit_blocks: int
    cpu_ms_per_turn: float
    cpu_ms_by_role: dict[str, float]
    network_up_s: float
    virtual_s_per_wall_s: float
    turns_per_wall_s: float
    memory_bytes: int
    emulated: Emulated
    ledger: list[PortLine]
    failures: dict[str, int]
    restarts: list[SchedulerRestart] = []
    delay_by: str = "none"
    delay_late_s: float = 0.0
    timing: Timing | None = None
    changes: list[NetworkChange] = []
    collectives: dict[str, Collectives] = {}


class Verdict(msgspec.Struct, frozen=True):
    """The run's two verdicts on itself; `causes` say what is behind anything but "passed"."""

    functional: str
    timing: str
    causes: tuple[str, ...]


class Comparison(msgspec.Struct, frozen=True):
    """What `compare --json` prints; `speedup` is each policy's throughput over the first's.

    `reused` has the folders of finished runs that stand for policies' own. `fabric` is what the
    emulated world's network was made of, and empty in the virtual one; on loopback, where times
    mean nothing, `speedup` is empty.
    """

    experiment: str
    world: str
    seed: int
    time_scale: float
    token_scale: int
    verdict: Verdict
    policies: dict[str, PolicyResult]
    speedup: dict[str, float]
    folder: str
    reused: dict[str, str] = {}
    fabric: str = ""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `compare --json`; a copy of it is `docs/compare.schema.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "testbed compare --json",
        **msgspec.json.schema(Comparison),
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
