"""From an experiment to what its scheduler knows, and what is wrong or odd about it."""

import msgspec

from engines.kv import round_up
from scheduler.types import ALPHA_S, ClusterSpec, EngineSpec, Side
from testbed.errors import InputError
from testbed.spec import BLOCK_TOKENS, Experiment
from testbed.workload import Averages

BETA_S = 5.0  # of one GPU's time
SNICS = "SNICs"


class Interval(msgspec.Struct, frozen=True):
    """Values of P/D from `low` to `high`; `below` and `above` name what binds outside."""

    low: float
    high: float
    below: str
    above: str

    def first(self, ratio: float) -> str:
        """What saturates first at a P/D."""
        if ratio < self.low:
            return self.below
        return self.above if ratio > self.high else SNICS


def prefill_lane_tokens(experiment: Experiment) -> int:
    """KV tokens that one prefill GPU keeps room for, in whole blocks."""
    return _whole_blocks(experiment, experiment.engine.prefill_gpu_pool_bytes)


def decode_lane_tokens(experiment: Experiment) -> int:
    """KV tokens that one decode GPU holds, in whole blocks."""
    return _whole_blocks(experiment, experiment.hardware.hbm_kv_bytes_per_gpu)


def buffer_tokens(experiment: Experiment) -> int:
    """KV tokens that a node's DRAM buffer holds, in whole blocks."""
    return _whole_blocks(experiment, experiment.hardware.dram_buffer_bytes)


def group_name(experiment: Experiment, node: str) -> str:
    """The engine group of a node: `group_nodes` neighbours of one side."""
    return f"{node[:2]}-group{int(node[2:]) // experiment.cluster.group_nodes}"


def cluster_spec(experiment: Experiment, mean: Averages) -> ClusterSpec:
    """Engines `<node>/<lane>`, and the profiled thresholds in full prompt tokens.

    `alpha_tokens` is 3 s of the slowest node's effective storage NIC, `beta_tokens` is 5 s of
    one GPU on the workload's mean turn.
    """
    cluster, model = experiment.cluster, experiment.model
    nodes = [(node, Side.PE) for node in cluster.prefill]
    nodes += [(node, Side.DE) for node in cluster.decode]
    hbm = {Side.PE: prefill_lane_tokens(experiment), Side.DE: decode_lane_tokens(experiment)}
    engines = tuple(
        EngineSpec(f"{node}/{lane}", side, node, group_name(experiment, node), hbm[side])
        for node, side in nodes
        for lane in range(cluster.gpus_per_node)
    )
    snic = min(experiment.snic_bytes_per_s(node) for node, _ in nodes)
    turn_s = model.prefill_gpu_s(mean.hit_tokens, mean.computed_tokens)
    return ClusterSpec(
        engines=engines,
        block_tokens=BLOCK_TOKENS,
        alpha_tokens=int(ALPHA_S * snic / model.kv_bytes_per_token),
        beta_tokens=int(BETA_S / turn_s * mean.prompt_tokens),
        seed=experiment.seed,
    )


def check_fits(experiment: Experiment, mean: Averages) -> None:
    """Raise InputError unless the workload's longest context fits into every memory."""
    need = round_up(mean.max_context_tokens, BLOCK_TOKENS)
    memories = {
        "engine.prefill_gpu_pool_bytes": prefill_lane_tokens(experiment),
        "hardware.hbm_kv_bytes_per_gpu": decode_lane_tokens(experiment),
        "hardware.dram_buffer_bytes": buffer_tokens(experiment),
    }
    for name, tokens in memories.items():
        if need > tokens:
            raise InputError(
                f"the workload's longest context is {need} tokens, but {name} holds {tokens}; "
                "enlarge it or shorten the contexts"
            )


def bottleneck_free(experiment: Experiment) -> tuple[float, float]:
    """The interval of P/D in which nothing but storage NICs binds (DualPath section 4.2).

    It is that of the paper's node; `port_interval` is that of ours.
    """
    hardware, gpus = experiment.hardware, experiment.cluster.gpus_per_node
    snic = hardware.snic_bytes_per_s * hardware.snic_share
    s = snic / hardware.cnic_bytes_per_s
    low = s / (gpus - s) if gpus > s else float("inf")
    dram = (hardware.dram_bytes_per_s / snic - 3) / 2
    return low, min((gpus - 2 * s) / s, (gpus - s) / (2 * s), dram)


def port_interval(experiment: Experiment) -> Interval:
    """The same with our node's ports: every storage NIC reads all the time, hits alone count.

    Rates are in storage NICs of one node: g/s is a node's compute NICs, PCIe port or uplink, one
    direction. docs/design.md has the table behind each term.
    """
    hardware = experiment.hardware
    snic = hardware.snic_bytes_per_s * hardware.snic_share
    node = experiment.node_cnic_bytes_per_s / snic  # g/s
    lows = {
        "PE cnic rx": 1 / (node - 1) if node > 1 else float("inf"),  # 1 + D/P
        "PE uplink rx": 1 / node,  # D/P
    }
    highs = {
        "DE dram": (hardware.dram_bytes_per_s / snic - 3) / 2,  # 3 + 2 P/D, both directions
        "DE pcie tx": node - 2,  # 2 + P/D
        "DE cnic rx": node - 1,  # 1 + P/D
        "DE pcie rx": node,  # P/D
    }
    below, above = max(lows, key=lows.__getitem__), min(highs, key=highs.__getitem__)
    return Interval(lows[below], highs[above], below, above)


def warnings(experiment: Experiment) -> list[str]:
    """What is valid but will not show what DualPath is about; each a sentence."""
    found = []
    hardware, cluster = experiment.hardware, experiment.cluster
    snic = hardware.snic_bytes_per_s * hardware.snic_share
    worth = experiment.node_cnic_bytes_per_s / snic
    free = port_interval(experiment)
    if worth < 4:
        found.append(
            f"a node's compute NICs are worth {worth:.1f} storage NICs; below 4 they may bind "
            "before storage does: give nodes more GPUs or faster compute NICs"
        )
    ratio = cluster.prefill_nodes / cluster.decode_nodes
    if free.low > free.high:
        found.append("no P/D is free of bottlenecks besides storage with this hardware")
    elif (first := free.first(ratio)) != SNICS:
        low, high = bottleneck_free(experiment)
        found.append(
            f"P/D is {ratio:.2f}, outside {free.low:.2f} to {free.high:.2f}, where only storage "
            f"NICs bind ({low:.2f} to {high:.2f} on the paper's node); {first} may bind first"
        )
    return found


def _whole_blocks(experiment: Experiment, size_bytes: float) -> int:
    return int(size_bytes / experiment.model.kv_bytes_per_token) // BLOCK_TOKENS * BLOCK_TOKENS
