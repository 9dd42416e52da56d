"""What collectives took on the network, and what KV went beside them, by side."""

from collections.abc import Sequence

import msgspec
import numpy as np

from engines.agents import TurnRecord
from engines.config import DecodeConfig, GroupConfig, PrefillConfig
from testbed.worlds.account import HostAccount
from testbed.worlds.plan import LabPlan

SIDES = ("pe", "de")


class Collectives(msgspec.Struct, frozen=True):
    """The exchanges of one side's engine groups over the whole run, and the KV beside them.

    Of all `messages`, how long the network had one, from its post to the receiving host's kernel,
    in emulated milliseconds (real ones in the emulated world); `late_p99_ms` is of what an idle
    network would not have taken. `delayed_share` is the share of layers that this made longer.
    `kv_bps` is KV into the side's HBM over the steady window, in emulated bit/s.
    """

    messages: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    delayed_share: float
    kv_bps: float


def collectives(
    plan: LabPlan,
    accounts: dict[str, HostAccount],
    steady: Sequence[TurnRecord],
    window: tuple[float, float],
) -> dict[str, Collectives]:
    """By side; a side whose groups are of one host each exchanges nothing and is left out."""
    groups: dict[str, dict[str, GroupConfig]] = {side: {} for side in SIDES}
    for host in plan.hosts:
        if isinstance(host.role, PrefillConfig | DecodeConfig):
            side = "pe" if isinstance(host.role, PrefillConfig) else "de"
            groups[side][host.role.group.name] = host.role.group
    found = {}
    for side, members in groups.items():
        took_s, late_s, layers, delayed = _sum(accounts, list(members.values()))
        if not took_s:
            continue
        to_ms = plan.world.time_scale * 1000
        p50, p99, most = np.percentile(took_s, [50, 99, 100]) * to_ms
        late = np.percentile(late_s, 99) * to_ms
        bps = _kv_bytes(plan, side, steady) * 8 / _real_s(plan, window)
        found[side] = Collectives(
            len(took_s),
            float(p50),
            float(p99),
            float(most),
            float(late),
            delayed / max(1, layers),
            bps,
        )
    return found


def _sum(
    accounts: dict[str, HostAccount], groups: Sequence[GroupConfig]
) -> tuple[list[float], list[float], int, int]:
    """All messages' times; of all groups, layers, and layers that were late for any host."""
    took_s: list[float] = []
    late_s: list[float] = []
    layers = late = 0
    for group in groups:
        counts = [accounts[host].exchanges for host in group.engines]
        delayed: set[int] = set()
        for count in counts:
            took_s += count.get("network_s", [])
            late_s += count.get("excess_s", [])
            delayed.update(count.get("delayed", []))
        layers += max(count.get("layers", 0) for count in counts)
        late += len(delayed)
    return took_s, late_s, layers, late


def _kv_bytes(plan: LabPlan, side: str, turns: Sequence[TurnRecord]) -> int:
    """Hits into prefill HBM, or whole prompts into decode HBM."""
    layout = plan.world.layout
    requests = [turn.request for turn in turns]
    tokens = [r.hit_tokens if side == "pe" else r.prompt_tokens for r in requests]
    return sum(layout.rows(count) for count in tokens) * layout.row_bytes


def _real_s(plan: LabPlan, window: tuple[float, float]) -> float:
    return max(1e-9, (window[1] - window[0]) * plan.world.time_scale)
