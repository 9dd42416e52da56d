"""`testbed sweep`: a grid of experiments into one table, and on after whatever stopped it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from testbed.cli.options import EXIT_FAILED, EXIT_INCONCLUSIVE
from testbed.errors import EnvironmentUnfit, InputError
from testbed.session import VIRTUAL, WORLDS
from testbed.sweep import curves, plot
from testbed.sweep.grid import read_points
from testbed.sweep.play import Swept, doubts, failures, sweep
from testbed.sweep.table import ERROR, TABLE

PICTURE = "sweep.png"
MOST_COMPLAINTS = 10


@click.command("sweep")
@click.argument("grid", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="For all points.")
@click.option(
    "--world", type=click.Choice(list(WORLDS)), default=VIRTUAL, show_default=True,
    help="A virtual clock, or namespaces and torch, one point at a time.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(1, 256), default=os.cpu_count() or 1, show_default=True,
    help="Points played at a time in the virtual world.",
)  # fmt: skip
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Folder for results.",
)  # fmt: skip
@click.option("--name", help="The sweep's folder in it.  [default: GRID-sweep]")
@click.option(
    "--require", type=click.Choice(["functional", "timing"]), default="functional",
    show_default=True, help="The verdict that the exit code asks for of all points.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The table as JSON lines.")
def command(
    grid: Path,
    settings: tuple[str, ...],
    world: str,
    processes: int,
    runs: Path,
    name: str | None,
    require: str,
    as_json: bool,
) -> int:
    """Play every point of GRID: policies x P/D x loads x seeds x any key of an experiment.

    Results are RUNS/NAME/table.jsonl, a line a point, and sweep.png. The same command goes on
    where it was stopped: a point is played once for the same grid values, experiment, world and
    code. Points that a changed GRID no longer has move to earlier.jsonl, and back if they return.
    A point that fails has a line with its error, and is played again the next time.
    """
    if name and (Path(name).name != name or name == ".."):
        raise InputError(f"--name {name}: is no name of a folder; --runs says where it is")
    folder = runs / (name or f"{grid.stem}-sweep")
    talk = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    try:
        with Progress(*columns, console=talk, disable=not talk.is_terminal) as bars:
            points = read_points(grid, settings, world, _bar(bars, "valid"))
            progress = _bar(bars, "points played")
            swept = sweep(points, grid.stem, folder, world, processes, progress)
    except KeyboardInterrupt:
        if folder.exists():
            words = f"what is finished is in {folder}; run the same command to go on"
            talk.print(words, highlight=False, soft_wrap=True, markup=False)
        raise
    tell(swept, folder, as_json, talk)
    return exit_code(swept, require)


def _bar(bars: Progress, description: str) -> Callable[[int, int], None]:
    task = bars.add_task(description, total=None, visible=False, start=False)

    def update(done: int, planned: int) -> None:
        bars.start_task(task)
        bars.update(task, completed=done, total=planned, visible=True)

    return update


def tell(swept: Swept, folder: Path, as_json: bool, talk: Console) -> None:
    """Data on stdout; on stderr what went wrong, and where everything is."""
    found = curves.curves(swept.lines)
    if as_json:
        for line in swept.lines:
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    else:
        curves.show(found, Console())
    said = [f"{swept.before} of {len(swept.lines)} points were there before"]
    said += [f"{swept.torn} broken lines were dropped"] if swept.torn else []
    said += [f"table: {folder / TABLE}"]
    if found.panels:
        said += [_picture(found, folder / PICTURE)]
    bad = failures(swept.lines)
    for line in bad[:MOST_COMPLAINTS]:
        where = f"{line['shape']}, {line['policy']}, {line['agents']} agents, seed {line['seed']}"
        said.append(f"failed: {where}: {line[ERROR] or line['causes']}")
    if len(bad) > MOST_COMPLAINTS:
        said.append(f"failed: {len(bad) - MOST_COMPLAINTS} more")
    if doubtful := doubts(swept.lines):
        said.append(f"inconclusive (~): the times of {len(doubtful)} points; the table says why")
    for sentence in said:
        talk.print(sentence, highlight=False, soft_wrap=True, markup=False)


def _picture(found: curves.Curves, path: Path) -> str:
    try:
        plot.save(found, path)
    except EnvironmentUnfit as error:
        return str(error)
    left = len(found.panels) - plot.MOST_PANELS
    return f"picture: {path}" + (f", without the last {left} panels" if left > 0 else "")


def exit_code(swept: Swept, require: str) -> int:
    """1 if a point failed or was wrong, 3 if timing was asked for and cannot be told, or 0."""
    if failures(swept.lines):
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if require == "timing" and doubts(swept.lines) else 0
