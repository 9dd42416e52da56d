"""What the nodes' DRAM caches served, by what buffers wrote down. All in real tokens."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from engines.config import BufferConfig
from scheduler.types import Decision, Side
from testbed.worlds.account import HostAccount
from testbed.worlds.plan import LabPlan

Cached = dict[int, dict[Side, int]]  # tokens found in DRAM, by request and by side


def cached(plan: LabPlan, accounts: Mapping[str, HostAccount]) -> Cached:
    """Of each turn that hit a cache, what came out of it on either side."""
    found: Cached = defaultdict(dict)
    for host in plan.hosts:
        if isinstance(host.role, BufferConfig):
            for request, tokens in accounts[host.name].cached_tokens.items():
                found[request][Side(host.role.side)] = tokens
    return dict(found)


def expected_share(decisions: Iterable[Decision]) -> float:
    """The share of the hit tokens of these turns that the scheduler expected in DRAM."""
    reads = [read for decision in decisions for read in decision.reads]
    return sum(read.cached for read in reads) / max(1, sum(read.count for read in reads))


def shares(
    decisions: Iterable[Decision], found: Cached, block_tokens: int
) -> tuple[dict[str, float], float]:
    """Of the hit tokens of these turns, those found in DRAM: by node that served, and of all."""
    served: Counter[str] = Counter()
    from_dram: Counter[str] = Counter()
    for decision in decisions:
        nodes = {Side.PE: decision.pe.split("/")[0], Side.DE: decision.de.split("/")[0]}
        for read in decision.reads:
            served[nodes[read.side]] += read.count * block_tokens
        for side, tokens in found.get(decision.request_id, {}).items():
            from_dram[nodes[side]] += tokens
    total = sum(from_dram.values()) / max(1, sum(served.values()))
    return {node: from_dram[node] / tokens for node, tokens in served.items()}, total
