"""What a cluster could do at most, and which of its parts says so. Target turns per second.

Each term is one resource kept busy all the time by the workload's mean turn, with hits rounded
to whole blocks; queueing, imbalance and pipeline fill are not in it, so a run stays below.
"""

from collections.abc import Sequence
from enum import StrEnum
from statistics import fmean

import msgspec

from testbed.cluster import decode_lane_tokens
from testbed.spec import Experiment
from testbed.workload import Load


class Reads(StrEnum):
    """How a policy spreads reads over storage NICs."""

    PE = "pe"  # prefill nodes alone
    DE = "de"  # decode nodes alone
    HALF = "half"  # either side as much as the other, whatever it has of nodes
    BOTH = "both"  # every node, at best each by its rate


READS = {
    "basic": Reads.PE,
    "pe-only": Reads.PE,
    "de-only": Reads.DE,
    "round-robin": Reads.HALF,
    "random": Reads.HALF,
    "static": Reads.HALF,
}


def reads_of(policy: str) -> Reads:
    """How a built-in policy spreads its reads; one that is not known here may use every NIC."""
    return READS.get(policy, Reads.BOTH)


FIXED_SHARE = {Reads.PE: 0.0, Reads.HALF: 0.5, Reads.DE: 1.0}  # of reads, on the decode side
SHARE_STEPS = 200  # a policy that may choose finds the best share of reads on either side


class Bound(msgspec.Struct, frozen=True):
    """The smallest of `terms`, all in turns/s, and its name."""

    turns_per_s: float
    binds: str
    terms: dict[str, float]


class _Mean(msgspec.Struct, frozen=True):
    """The mean turn: H and m of DualPath section 3 in bytes, times in seconds."""

    hit_bytes: float
    miss_bytes: float
    gpu_s: float
    decode_s: float
    held_token_s: float


def bound(
    experiment: Experiment,
    turns: Sequence[Load],
    reads: Reads,
    agents: int,
    offered_turns_per_s: float = float("inf"),
) -> Bound:
    """The smallest of all terms for a way to spread reads, and the resource that it stands for.

    Agents that arrive one by one bring no more than `offered_turns_per_s`. A resource that the mean
    turn does not use has no term.
    """
    mean = _mean(experiment, turns)
    best = max(
        (_terms(experiment, mean, de_share, agents) for de_share in _shares(experiment, reads)),
        key=lambda terms: min(terms.values()),
    )
    limits = {**best, "arrivals": offered_turns_per_s}
    terms = {name: value for name, value in limits.items() if value < float("inf")}
    binds = min(terms, key=terms.__getitem__)
    return Bound(terms[binds], binds, terms)


def _shares(experiment: Experiment, reads: Reads) -> list[float]:
    """Shares of reads that decode nodes may get; first the one that loads all NICs alike."""
    if reads is Reads.BOTH:
        de = _snic_bytes_per_s(experiment, experiment.cluster.decode)
        alike = de / (de + _snic_bytes_per_s(experiment, experiment.cluster.prefill))
        return [alike, *(step / SHARE_STEPS for step in range(SHARE_STEPS + 1))]
    return [FIXED_SHARE[reads]]


def _terms(experiment: Experiment, mean: _Mean, de_share: float, agents: int) -> dict[str, float]:
    cluster = experiment.cluster
    hbm_tokens = decode_lane_tokens(experiment) * cluster.gpus_per_node * cluster.decode_nodes
    return {
        "PE compute": cluster.prefill_nodes * cluster.gpus_per_node / mean.gpu_s,
        "SNICs": _storage(experiment, mean, de_share),
        "CNICs": _cnics(experiment, mean, de_share),
        "DRAM": _dram(experiment, mean, de_share),
        "DE HBM": _per_s(hbm_tokens, mean.held_token_s),
        "agents in flight": agents / _unloaded_s(experiment, mean),
    }


def _mean(experiment: Experiment, turns: Sequence[Load]) -> _Mean:
    model = experiment.model

    def decode_s(load: Load) -> float:
        return (load.generate_tokens - 1) * model.tpot_s  # the prefill gives the first token

    return _Mean(
        hit_bytes=fmean(load.hit_tokens for load in turns) * model.kv_bytes_per_token,
        miss_bytes=fmean(load.computed_tokens for load in turns) * model.kv_bytes_per_token,
        gpu_s=fmean(model.prefill_gpu_s(load.hit_tokens, load.computed_tokens) for load in turns),
        decode_s=fmean(decode_s(load) for load in turns),
        held_token_s=fmean(load.context_tokens * decode_s(load) for load in turns),
    )


def _snic_bytes_per_s(experiment: Experiment, nodes: Sequence[str]) -> float:
    return sum(experiment.snic_bytes_per_s(node) for node in nodes)


def _storage(experiment: Experiment, mean: _Mean, de_share: float) -> float:
    """The side whose storage NICs are through last."""
    pe = _snic_bytes_per_s(experiment, experiment.cluster.prefill)
    de = _snic_bytes_per_s(experiment, experiment.cluster.decode)
    hit = mean.hit_bytes
    return min(_per_s(pe, hit * (1 - de_share)), _per_s(de, hit * de_share))


def _cnics(experiment: Experiment, mean: _Mean, de_share: float) -> float:
    """The busiest direction of compute NICs, PCIe ports and uplinks, all g x CNIC a node."""
    hit, miss = mean.hit_bytes, mean.miss_bytes
    node = experiment.node_cnic_bytes_per_s
    pe_out = (1 - de_share) * hit + miss  # hits of the PE path and all misses, to the DE side
    de_out = hit + miss + de_share * hit  # H2D, and on the DE path the hits to the PE side
    pe_turns = experiment.cluster.prefill_nodes * node / max(hit, pe_out)
    return min(pe_turns, experiment.cluster.decode_nodes * node / de_out)


def _dram(experiment: Experiment, mean: _Mean, de_share: float) -> float:
    """Reads and writes summed: 2H on the PE side, 2(H+m) or 3H+2m on the DE side."""
    hit, miss = mean.hit_bytes, mean.miss_bytes
    node = experiment.hardware.dram_bytes_per_s
    pe_turns = _per_s(experiment.cluster.prefill_nodes * node, 2 * hit * (1 - de_share))
    de_bytes = 2 * (hit + miss) + de_share * hit
    return min(pe_turns, experiment.cluster.decode_nodes * node / de_bytes)


def _unloaded_s(experiment: Experiment, mean: _Mean) -> float:
    """A turn alone in the cluster: read at the fastest NIC's rate, prefill, decode."""
    nodes = (*experiment.cluster.prefill, *experiment.cluster.decode)
    fastest = max(experiment.snic_bytes_per_s(node) for node in nodes)
    return mean.hit_bytes / fastest + mean.gpu_s + mean.decode_s


def _per_s(rate: float, amount: float) -> float:
    return rate / amount if amount > 0 else float("inf")
