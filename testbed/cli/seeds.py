"""What `testbed compare --seeds` does: play, tell every interval, and the exit code."""

from rich.console import Console
from rich.table import Table

from testbed.cli.options import Asked, exit_code
from testbed.cli.output import print_json
from testbed.cli.progress import counting
from testbed.results.picture import verdict_text
from testbed.seeds import Gain, SeedsComparison, compare_seeds, seeds_of
from testbed.session import require_world


def compare_over_seeds(asked: Asked, policies: list[str], seeds_word: str, processes: int) -> int:
    """Play the policies on every seed, print, and return the exit code of the worst verdict."""
    experiment, _ = asked.load()
    seeds = seeds_of(seeds_word, experiment.seed)
    require_world(asked.world)
    with counting("runs", Console(stderr=True)) as progress:
        comparison = compare_seeds(
            experiment, asked.experiment.stem, policies, seeds, asked.world, processes, asked.runs,
            progress,
        )  # fmt: skip
    if asked.as_json:
        print_json(comparison)
    else:
        show(comparison, Console())
    return exit_code(comparison.verdict, asked.require)


def show(comparison: SeedsComparison, console: Console) -> None:
    """Means over the seeds, then each policy against the first."""
    seeds = ", ".join(str(seed) for seed in comparison.seeds)
    console.print(
        f"{comparison.experiment} · {comparison.world} · seeds {seeds}", style="bold", markup=False
    )
    console.print(_means(comparison))
    console.print()
    if comparison.gains:
        console.print(_gains(comparison))
        console.print(
            f"Over {comparison.policies[0]}, paired by seed; 95 % intervals (Student's t over log "
            "ratios). Above 1 is better, in times too.",
            highlight=False, markup=False,
        )  # fmt: skip
    for note in comparison.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    console.print(verdict_text(comparison.verdict))
    console.print(f"results: {comparison.folder}", highlight=False, markup=False, soft_wrap=True)


def _means(comparison: SeedsComparison) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("mean over seeds", "turns/s, steady", "TTFT, s", "JCT, s"):
        table.add_column(head, justify="left" if head.startswith("mean") else "right")
    for label in comparison.policies:
        runs = [run for run in comparison.figures if run.policy == label]
        means = [
            sum(values) / len(runs)
            for values in zip(*((r.turns_per_s, r.ttft_s, r.jct_s) for r in runs), strict=True)
        ]
        table.add_row(label, f"{means[0]:.1f}", f"{means[1]:.2f}", f"{means[2]:.1f}")
    return table


def _gains(comparison: SeedsComparison) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for head in ("", "ratio", "95 % interval", ""):
        table.add_column(head)
    for label, gains in comparison.gains.items():
        lines = (("throughput", gains.throughput), ("TTFT", gains.ttft), ("JCT", gains.jct))
        for number, (what, found) in enumerate(lines):
            table.add_row("" if number else label, what, *_cells(found))
    return table


def _cells(gain: Gain) -> tuple[str, str, str]:
    if gain.interval is None:
        return "", "", f"{gain.reading}: a figure is 0"
    interval = gain.interval
    return f"{interval.ratio:.3f}x", f"{interval.low:.3f} to {interval.high:.3f}", gain.reading
