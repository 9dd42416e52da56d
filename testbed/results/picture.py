"""What a run shows on a terminal: bars per node, policies side by side, and the table."""

from collections.abc import Callable, Sequence
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from testbed.delays import NOBODY
from testbed.results.collectives import SIDES, Collectives
from testbed.results.schema import Comparison, NodeShares, PolicyResult, Timing, Verdict
from testbed.worlds.plan import LOOPBACK

BAR_CELLS, FEWEST_CELLS = 24, 6
LABEL_COLUMNS = 32  # of a node's name, its bars' labels, and the frame
MOST_NODES = 12  # that are shown one by one
PERCENT_COLUMNS = 7  # behind a bar, with the space to the next
EIGHTHS = " ▏▎▍▌▋▊▉"
ROWS = (
    ("storage NIC", "snic", "cyan"),
    ("GPU", "gpu_busy", "green"),
    ("GPU waiting for KV", "gpu_waiting_for_kv", "red"),
    ("HBM held", "hbm_held", "blue"),
    ("hits from DRAM", "dram_hits", "magenta"),
)


def bar_cells(columns: int, policies: int) -> int:
    """How long bars can be, so that those of all policies stand side by side."""
    fitting = (columns - LABEL_COLUMNS) // policies - PERCENT_COLUMNS
    return max(FEWEST_CELLS, min(BAR_CELLS, fitting))


def bar(share: float, style: str, cells: int = BAR_CELLS) -> Text:
    """A share of 1 as a bar of fixed length, with its percentage."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (EIGHTHS[rest] if rest else "")
    return Text.assemble((drawn.ljust(cells, "·"), style), f" {share:4.0%}")


def nodes_table(policies: dict[str, PolicyResult], cells: int) -> Table:
    """Per node a bar for storage NIC, GPU and what there is besides; a column a policy."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left")
    table.add_column("node")
    table.add_column("", no_wrap=True)
    for name in policies:
        table.add_column(name)
    nodes = {name: shown_nodes(result.nodes) for name, result in policies.items()}
    without = {"dram_hits"} - {"dram_hits" for p in policies.values() if p.dram_hit_share}
    for node in next(iter(nodes.values())):
        others = {*without, "gpu_waiting_for_kv" if node.startswith("de") else "hbm_held"}
        for index, (label, field, style) in enumerate(ROWS):
            if field in others:
                continue
            shares = [_share(each[node], field) for each in nodes.values()]
            table.add_row(
                node if index == 0 else "", label, *(bar(s, style, cells) for s in shares)
            )
    return table


def shown_nodes(nodes: dict[str, NodeShares]) -> dict[str, NodeShares]:
    """Every node; of many, the mean, the most and the least of each number on either side."""
    if len(nodes) <= MOST_NODES:
        return nodes
    found = {}
    for side in ("pe", "de"):
        members = [shares for node, shares in nodes.items() if node.startswith(side)]
        for word, pick in (("mean", fmean), ("most", max), ("least", min)):
            numbers = {
                field: pick([_share(shares, field) for shares in members]) for _, field, _ in ROWS
            }
            found[f"{side} {word}"] = NodeShares(**numbers)
    return found


def _share(shares: NodeShares, field: str) -> float:
    return float(getattr(shares, field))


def numbers_table(policies: dict[str, PolicyResult], speedup: dict[str, float]) -> Table:
    """The comparison in numbers, target units."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in policies:
        table.add_column(name, justify="right")
    if len(policies) > 1:
        table.add_row(
            "speed-up, turns/s", *(f"{speedup[name]:.2f}x" for name in policies), style="bold"
        )
    for label, cells in _lines(list(policies.values())):
        table.add_row(label, *cells)
    return table


def untimed_table(policies: dict[str, PolicyResult]) -> Table:
    """What is true of a run whose times mean nothing."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in policies:
        table.add_column(name, justify="right")
    for label, cells in _untimed_lines(list(policies.values())):
        table.add_row(label, *cells)
    return table


def _lines(results: Sequence[PolicyResult]) -> list[tuple[str, list[str]]]:
    return [
        ("turns/s, steady", [f"{r.throughput_turns_per_s:.1f}" for r in results]),
        ("at most", [f"{r.bound.turns_per_s:.1f}" for r in results]),
        ("limited by", [r.bound.binds for r in results]),
        (
            "of that limit",
            [f"{r.throughput_turns_per_s / r.bound.turns_per_s:.0%}" for r in results],
        ),
        ("TTFT mean / p99, s", [f"{r.ttft_s.mean:.2f} / {r.ttft_s.p99:.2f}" for r in results]),
        ("TTST mean, s", [f"{r.ttst_s.mean:.3f}" for r in results]),
        ("TPOT mean, ms", [f"{r.tpot_s.mean * 1000:.1f}" for r in results]),
        ("JCT mean / p99, s", [f"{r.jct_s.mean:.1f} / {r.jct_s.p99:.1f}" for r in results]),
        _sides_line(results),
        ("SNIC load, max / mean", [f"{r.snic_balance.max_over_mean:.2f}" for r in results]),
        *(
            [("hits from DRAM", [f"{r.dram_hit_share:.0%}" for r in results])]
            if any(r.dram_hit_share for r in results)
            else []
        ),
        *(
            [("links' delay by", [_delay_text(r) for r in results])]
            if any(r.delay_by != NOBODY for r in results)
            else []
        ),
        *(_collective_lines(results) if any(r.collectives for r in results) else []),
        *_right_lines(results),
        *(_machine_lines(results) if any(r.cpu_ms_per_turn for r in results) else []),
    ]


def _sides_line(results: Sequence[PolicyResult]) -> tuple[str, list[str]]:
    shares = [f"{r.path_share['pe']:.0%} / {r.path_share['de']:.0%}" for r in results]
    return "KV read on PE / DE side", shares


def _right_lines(results: Sequence[PolicyResult]) -> list[tuple[str, list[str]]]:
    """What was done, and whether it is right."""
    return [
        ("turns done / failed", [f"{r.completed_turns} / {r.failed_turns}" for r in results]),
        *(
            [("turns not begun", [f"{r.turns_not_begun}" for r in results])]
            if any(r.turns_not_begun for r in results)
            else []
        ),
        ("tokens right / checked", [f"{r.tokens_equal} / {r.tokens_checked}" for r in results]),
        ("KV right / sampled", [f"{r.kv_equal} / {r.kv_checked}" for r in results]),
        ("hits on own KV, blocks", [f"{r.persisted_then_hit_blocks}" for r in results]),
    ]


def _collective_lines(results: Sequence[PolicyResult]) -> list[tuple[str, list[str]]]:
    """Of groups that span hosts."""

    def both(each: Callable[[Collectives], str]) -> list[str]:
        sides = [[r.collectives.get(side) for side in SIDES] for r in results]
        return [" / ".join(each(one) if one else "-" for one in pair) for pair in sides]

    return [
        ("collectives p99 PE / DE, ms here", both(lambda c: f"{c.p99_ms:.2f}")),
        ("layers they delayed", both(lambda c: f"{c.delayed_share:.1%}")),
        ("KV beside them, Mbit/s here", both(lambda c: f"{c.kv_bps / 1e6:.1f}")),
    ]


def _untimed_lines(results: Sequence[PolicyResult]) -> list[tuple[str, list[str]]]:
    carried = [sum(line.counted_bytes for line in r.ledger) for r in results]
    planned = [sum(line.expected_bytes for line in r.ledger) for r in results]
    return [
        *_right_lines(results),
        _sides_line(results),
        (
            "KV over all ports, MB / by closed form",
            [f"{c / 1e6:.1f} / {p / 1e6:.1f}" for c, p in zip(carried, planned, strict=True)],
        ),
        ("memory of all hosts, GB", [f"{r.memory_bytes / 1e9:.1f}" for r in results]),
    ]


def _delay_text(result: PolicyResult) -> str:
    late = f", late by {result.delay_late_s * 1000:.2f} ms" if result.delay_late_s else ""
    return result.delay_by + late


def _machine_lines(results: Sequence[PolicyResult]) -> list[tuple[str, list[str]]]:
    """What the emulated world took of this machine."""
    return [
        ("CPU a turn, ms", [f"{r.cpu_ms_per_turn:.1f}" for r in results]),
        *(
            (f"  {role}", [f"{r.cpu_ms_by_role.get(role, 0):.1f}" for r in results])
            for role in sorted(results[0].cpu_ms_by_role)
        ),
        ("memory of all hosts, GB", [f"{r.memory_bytes / 1e9:.1f}" for r in results]),
        ("network up in, s", [f"{r.network_up_s:.2f}" for r in results]),
        *_timing_lines([r.timing for r in results if r.timing is not None], len(results)),
    ]


def _timing_lines(timings: Sequence[Timing], results: int) -> list[tuple[str, list[str]]]:
    """How far this machine was from delaying the run; nothing of runs that did not look."""
    if len(timings) < results:
        return []
    return [
        ("CPU used by others", [f"{t.foreign.value:.0%}" for t in timings]),
        ("layers late, sum over time", [f"{t.lateness.value:.0%}" for t in timings]),
        ("ticks a period late", [f"{t.late_ticks.value:.1%}" for t in timings]),
        ("longest wait for a CPU", [f"{t.run_delay.value:.0%}" for t in timings]),
        ("1 ms sleep late, p99, ms", [f"{1000 * t.overshoot_p99_s.value:.1f}" for t in timings]),
        (
            "full links, least of rate",
            [f"{min(t.goodput.values()):.1%}" if t.goodput else "-" for t in timings],
        ),
        (
            "packets dropped, KV / MODEL",
            [
                f"{_dropped(t) - t.model_drops.value:.0f} / {t.model_drops.value:.0f}"
                for t in timings
            ],
        ),
    ]


def _dropped(timing: Timing) -> int:
    return sum(count for classes in timing.drops.values() for count in classes.values())


def verdict_text(verdict: Verdict) -> Text:
    """Both verdicts and their causes."""
    style = {"passed": "green", "faithful": "green", "inconclusive": "yellow", "failed": "red"}
    text = Text.assemble(
        "functional: ",
        (verdict.functional, style[verdict.functional]),
        "   timing: ",
        (verdict.timing, style[verdict.timing]),
    )
    for cause in verdict.causes:
        text.append(f"\n  - {cause}")
    return text


def notes_text(policies: dict[str, PolicyResult]) -> list[Text]:
    """What is worth a word about the machine and is no doubt, a line each."""
    return [
        Text(f"  note: {name}: {note}")
        for name, result in policies.items()
        if result.timing is not None
        for note in result.timing.notes
    ]


def changes_text(policies: dict[str, PolicyResult]) -> list[Text]:
    """What somebody changed on the network meanwhile, a line each."""
    return [
        Text(f"  changed: {name}: at {change.at_s:.1f} s {change.what}")
        for name, result in policies.items()
        for change in result.changes
    ]


def render(comparison: Comparison, columns: int) -> RenderableType:
    """The whole picture of a run or comparison, for a terminal of so many columns."""
    title = (
        f"{comparison.experiment} · seed {comparison.seed} · {_pace(comparison)} · "
        f"1 token for {comparison.token_scale}"
    )
    return Panel(
        Group(
            *_figures(comparison, columns),
            Text(),
            verdict_text(comparison.verdict),
            *notes_text(comparison.policies),
            *changes_text(comparison.policies),
            Text(f"results: {comparison.folder}"),
            *(Text(f"{name}: reused from {at}") for name, at in comparison.reused.items()),
        ),
        title=Text(title),
        title_align="left",
    )


def _figures(comparison: Comparison, columns: int) -> list[RenderableType]:
    if comparison.fabric == LOOPBACK:
        return [
            untimed_table(comparison.policies),
            Text(),
            Text(
                "No speed-ups, rates, times or shares of links are shown: on loopback nothing is "
                "shaped, so they would say how fast this machine is."
            ),
        ]
    return [
        nodes_table(comparison.policies, bar_cells(columns, len(comparison.policies))),
        Text(),
        numbers_table(comparison.policies, comparison.speedup),
    ]


def _pace(comparison: Comparison) -> str:
    if comparison.world == "virtual":
        paces = [result.virtual_s_per_wall_s for result in comparison.policies.values()]
        return f"virtual, {min(paces):.1f} s a real second"
    where = "on loopback" if comparison.fabric == LOOPBACK else "here"
    return f"1 s takes {comparison.time_scale:g} s {where}"


def show(comparison: Comparison, console: Console) -> None:
    """Print the picture."""
    console.print(render(comparison, console.width))
