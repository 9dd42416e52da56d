"""`testbed isolation`: what KV does to collectives and decode, with traffic classes and without."""

from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from testbed.cli.options import Asked, exit_code, experiment_options
from testbed.cli.output import print_json
from testbed.cli.progress import Bars
from testbed.errors import EnvironmentUnfit
from testbed.isolation import (
    CLASSES,
    NO_CLASSES,
    NO_KV,
    SUFFERS,
    VARIANTS,
    WITHIN,
    Ratio,
    play_isolation,
    ratios,
)
from testbed.policies import choose_one
from testbed.results import isolation_plot
from testbed.results.collectives import Collectives
from testbed.results.picture import changes_text, notes_text, show, verdict_text
from testbed.results.schema import Comparison, PolicyResult
from testbed.session import require_world
from testbed.worlds.plan import LOOPBACK

PICTURE = "isolation.png"


@click.command("isolation")
@experiment_options(require="functional")
@click.option("--policy", default="dualpath", show_default=True, help="By name, or as FILE:CLASS.")
def command(asked: Asked, policy: str) -> int:
    """Play EXPERIMENT without KV, with traffic classes, and without classes, side by side.

    Arrivals, appended and generated tokens are the same in all three. Needs an engine group that
    spans hosts, fixed turns that arrive at a rate (--aps), and compute NICs that KV congests:
    topologies/isolation.yaml has all of it.
    """
    experiment, _ = asked.load()
    chosen = choose_one(policy)
    require_world(asked.world)
    talk = Console(stderr=True)
    with Bars(list(VARIANTS), talk) as bars:
        comparison = play_isolation(
            experiment, asked.experiment.stem, chosen, asked.runs, bars.tell, asked.world
        )
    talk.print(_picture(comparison), highlight=False, soft_wrap=True, markup=False)
    if asked.as_json:
        print_json(comparison)
    else:
        _show(comparison, Console())
    return exit_code(comparison.verdict, asked.require)


def _picture(comparison: Comparison) -> str:
    path = Path(comparison.folder) / PICTURE
    try:
        isolation_plot.save(comparison.policies, path)
    except EnvironmentUnfit as error:
        return str(error)
    return f"picture: {path}"


def _show(comparison: Comparison, console: Console) -> None:
    if comparison.fabric == LOOPBACK:  # it has no times to compare
        show(comparison, console)
    else:
        console.print(_page(comparison))


def _page(comparison: Comparison) -> Panel:
    """What the three runs are for comes first; the rest is in result.json."""
    results = comparison.policies
    title = f"{comparison.experiment} · seed {comparison.seed} · {comparison.world} world"
    return Panel(
        Group(
            _table(results),
            Text(),
            Text(_shown(ratios(results))),
            Text(),
            verdict_text(comparison.verdict),
            *notes_text(results),
            *changes_text(results),
            Text(f"results: {comparison.folder}"),
        ),
        title=Text(title),
        title_align="left",
    )


def _table(results: dict[str, PolicyResult]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for label, cell in _rows(ratios(results)):
        table.add_row(label, *(cell(name, result) for name, result in results.items()))
    return table


def _rows(found: tuple[Ratio, ...]) -> list[tuple[str, Callable[[str, PolicyResult], str]]]:
    """Labels of the table, and each one's cell from a run's name and result."""
    tpot, p99 = found

    def over(ratio: Ratio) -> Callable[[str, PolicyResult], str]:
        values = {NO_KV: 1.0, CLASSES: ratio.classes, NO_CLASSES: ratio.no_classes}
        return lambda name, _: f"{values[name]:.2f}x"

    def side(name: str, each: Callable[[Collectives], str]) -> Callable[[str, PolicyResult], str]:
        return lambda _, r: each(r.collectives[name]) if name in r.collectives else "-"

    return [
        ("TPOT mean, ms", lambda _, r: f"{r.tpot_s.mean * 1000:.1f}"),
        ("  over the run without KV", over(tpot)),
        ("collectives of decode, p99, ms", side("de", lambda c: f"{c.p99_ms:.2f}")),
        ("  over the run without KV", over(p99)),
        ("decode layers delayed", side("de", lambda c: f"{c.delayed_share:.1%}")),
        ("prefill layers delayed", side("pe", lambda c: f"{c.delayed_share:.1%}")),
        ("KV into decode HBM, Mbit/s", side("de", lambda c: f"{c.kv_bps / 1e6:.1f}")),
        ("", lambda *_: ""),
        ("KV's own way: TTFT mean, s", lambda _, r: f"{r.ttft_s.mean:.2f}"),
        ("  TTST mean, s", lambda _, r: f"{r.ttst_s.mean:.2f}"),
        ("  JCT mean, s", lambda _, r: f"{r.jct_s.mean:.2f}"),
        ("turns done / failed", lambda _, r: f"{r.completed_turns} / {r.failed_turns}"),
        ("tokens right / checked", lambda _, r: f"{r.tokens_equal} / {r.tokens_checked}"),
    ]


def _shown(found: tuple[Ratio, ...]) -> str:
    """Whether these runs show isolation, and what that means."""
    limits = f"at most {1 + WITHIN:g}x with classes, and at least {SUFFERS:g}x without them"
    failing = [one.what for one in found if one.classes > 1 + WITHIN or one.no_classes < SUFFERS]
    words = f"is not shown by {' and '.join(failing)}" if failing else "shows"
    return (
        f"Isolation {words}: it means {limits}, of TPOT and of p99. TTFT, TTST and JCT wait for "
        "contexts, and the run without KV has none: compare them between the other two."
    )
