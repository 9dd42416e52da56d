"""Options that run and compare share, and what both do with them."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from testbed.cli.progress import Bars
from testbed.errors import InputError
from testbed.external.met import met
from testbed.facts import facts, text
from testbed.policies import choose
from testbed.results.picture import show
from testbed.results.schema import Comparison, Verdict
from testbed.results.verdict import FAILED, INCONCLUSIVE
from testbed.session import (
    EMULATED,
    VIRTUAL,
    WORLDS,
    play,
    require_size,
    require_world,
)
from testbed.spec import Experiment, load_experiment
from testbed.workload import Workload, build_workload

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 3
TIME_SCALE = "scale.time_scale"
MOST_COLUMNS = 100


def experiment_options(require: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command that plays an experiment; `require` is its default verdict."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(
            [
                click.argument("experiment", type=click.Path(path_type=Path)),
                click.option("--seed", type=int, help="Seed of workload and weights."),
                click.option("--time-scale", type=float, help="Real seconds a target second."),
                click.option(
                    "--world", type=click.Choice(list(WORLDS)), default=EMULATED,
                    show_default=True, help="Namespaces and torch, or a virtual clock.",
                ),
                click.option("--workload", help="Kind of workload: fixed, weka or replay."),
                click.option(
                    "--aps", type=float,
                    help="Agents that arrive a target second, at random; else all start at once.",
                ),
                click.option(
                    "--set", "settings", multiple=True, metavar="KEY=VALUE",
                    help="Override a value of the experiment, e.g. hardware.snic_share=0.5.",
                ),
                click.option(
                    "--require", type=click.Choice(["functional", "timing"]), default=require,
                    show_default=True, help="The verdict that the exit code asks for.",
                ),
                click.option(
                    "--runs", type=click.Path(path_type=Path), default=Path("runs"),
                    show_default=True, help="Folder for results.",
                ),
                click.option("--json", "as_json", is_flag=True, help="Results as JSON."),
            ]
        ):  # fmt: skip
            command = option(command)
        return functools.wraps(command)(command)

    return decorate


def load(
    path: Path,
    seed: int | None,
    time_scale: float | None,
    workload: str | None,
    settings: tuple[str, ...],
    world: str = EMULATED,
    aps: float | None = None,
) -> tuple[Experiment, Workload]:
    """The experiment as asked for, and its workload; InputError before anything is created."""
    overrides = list(settings)
    if world == VIRTUAL:
        if time_scale is not None:
            raise InputError("--time-scale says nothing in the virtual world; leave it out")
        if any(setting.partition("=")[0].strip() == TIME_SCALE for setting in settings):
            raise InputError(f"--set {TIME_SCALE} says nothing in the virtual world; leave it out")
        time_scale = 1.0
    if seed is not None:
        overrides.append(f"seed={seed}")
    if time_scale is not None:
        overrides.append(f"{TIME_SCALE}={time_scale}")
    if workload is not None:
        overrides.append(f"workload.kind={workload}")
    if aps is not None:
        overrides.append(f"workload.aps={aps}")
    experiment = load_experiment(path, overrides)
    return experiment, build_workload(experiment.workload, experiment.seed)


def play_and_tell(
    path: Path,
    experiment: Experiment,
    workload: Workload,
    words: list[str],
    runs: Path,
    require: str,
    as_json: bool,
    world: str = EMULATED,
    fresh: bool = True,
    process: str | None = None,
    also: Callable[[Comparison], None] = lambda _: None,
) -> int:
    """Play, print, `also` what else was asked for, and return the verdict's exit code."""
    policies = choose(words, process=process)
    require_world(world)
    require_size(experiment, world)
    policies = met(policies, experiment, workload)
    talk = Console(stderr=True)
    said = facts(path.name, experiment, workload, policies)
    for warning in said.warnings:
        talk.print(f"warning: {warning}", style="yellow", markup=False)
    talk.print(text(said, columns(talk)) + "\n", highlight=False, soft_wrap=True, markup=False)
    with Bars([policy.name for policy in policies], talk) as bars:
        comparison = play(experiment, path.stem, workload, policies, runs, bars.tell, world, fresh)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(comparison)).decode() + "\n")
    else:
        show(comparison, Console())
        also(comparison)
    return exit_code(comparison, require)


def columns(console: Console) -> int:
    """How wide words may run: as the terminal, within reason."""
    return min(console.width, MOST_COLUMNS) if console.is_terminal else MOST_COLUMNS


def exit_code(comparison: Comparison, require: str) -> int:
    """That of its verdict."""
    return verdict_code(comparison.verdict, require)


def verdict_code(verdict: Verdict, require: str) -> int:
    """0, 1 if it is wrong, 3 if what was asked for cannot be told."""
    if verdict.functional == FAILED:
        return EXIT_FAILED
    if verdict.functional == INCONCLUSIVE:
        return EXIT_INCONCLUSIVE
    if require == "timing" and verdict.timing == INCONCLUSIVE:
        return EXIT_INCONCLUSIVE
    return 0
