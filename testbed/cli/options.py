"""Options that run and compare share, and what both do with them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from testbed.cli.output import print_json
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
    require_playable,
    require_world,
)
from testbed.spec import Experiment, load_experiment
from testbed.workload import Workload, build_workload
from testbed.worlds.plan import LOOPBACK, NAMESPACES

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 3
FUNCTIONAL = "functional"
TIME_SCALE = "scale.time_scale"
MOST_COLUMNS = 100


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What run and compare are both asked for; the words are those of their options."""

    experiment: Path
    seed: int | None = None
    time_scale: float | None = None
    world: str = EMULATED
    fabric: str = NAMESPACES
    workload: str | None = None
    aps: float | None = None
    settings: tuple[str, ...] = ()
    require: str = "functional"
    runs: Path = Path("runs")
    as_json: bool = False

    def load(self) -> tuple[Experiment, Workload]:
        """The experiment and its workload, as the function of this name does."""
        return load(
            self.experiment, self.seed, self.time_scale, self.workload, self.settings, self.world,
            self.aps,
        )  # fmt: skip


def experiment_options(require: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command that plays an experiment; `require` is its default verdict.

    The command gets them as one `Asked`, before its own.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def asked(**values: Any) -> Any:
            common = {name: values.pop(name) for name in Asked.__struct_fields__}
            common["fabric"] = fabric_of(common["world"], common["fabric"])
            if common["require"] is None:
                common["require"] = FUNCTIONAL if common["fabric"] == LOOPBACK else require
            return command(Asked(**common), **values)

        decorated: Callable[..., Any] = asked
        for option in reversed(_options(require)):
            decorated = option(decorated)
        return decorated

    return decorate


def _options(require: str) -> list[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    on_loopback = "" if require == FUNCTIONAL else f"; {FUNCTIONAL} on loopback"
    return [
        click.argument("experiment", type=click.Path(path_type=Path)),
        click.option("--seed", type=int, help="Seed of workload and weights."),
        click.option("--time-scale", type=float, help="Real seconds a target second."),
        click.option(
            "--world", type=click.Choice(list(WORLDS)), default=EMULATED, show_default=True,
            help="Namespaces and torch, or a virtual clock.",
        ),
        click.option(
            "--fabric", type=click.Choice([NAMESPACES, LOOPBACK]),
            help="Of the emulated world: shaped links between namespaces, or plain TCP on this "
            f"machine's loopback, where only a functional verdict is to be had.  "
            f"[default: {NAMESPACES}]",
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
            "--require", type=click.Choice([FUNCTIONAL, "timing"]),
            help=f"The verdict that the exit code asks for.  [default: {require}{on_loopback}]",
        ),
        click.option(
            "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
            help="Folder for results.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Results as JSON."),
    ]  # fmt: skip


def fabric_of(world: str, asked: str | None) -> str:
    """What the network is made of; raises InputError for a world that has no such thing."""
    if asked is not None and world == VIRTUAL:
        raise InputError(f"--fabric {asked} says nothing in the virtual world; leave it out")
    return asked or NAMESPACES


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
    asked: Asked,
    words: list[str],
    process: str | None = None,
    fresh: bool = True,
    also: Callable[[Comparison], None] = lambda _: None,
) -> int:
    """Play these policies, and the scheduler in another process if one is named; tell what came.

    Returns the exit code of the verdict; `also` is called behind a picture, not behind JSON.
    """
    experiment, workload = asked.load()
    policies = choose(words, process=process)
    require_world(asked.world, asked.fabric)
    policies = met(policies, experiment, workload)
    require_playable(experiment, workload, policies, asked.world)
    talk = Console(stderr=True)
    said = facts(asked.experiment.name, experiment, workload, policies)
    for warning in said.warnings:
        talk.print(f"warning: {warning}", style="yellow", markup=False)
    talk.print(text(said, columns(talk)) + "\n", highlight=False, soft_wrap=True, markup=False)
    name = asked.experiment.stem
    with Bars([policy.name for policy in policies], talk) as bars:
        comparison = play(
            experiment, name, workload, policies, asked.runs, bars.tell, asked.world, fresh,
            asked.fabric,
        )  # fmt: skip
    if asked.as_json:
        print_json(comparison)
    else:
        show(comparison, Console())
        also(comparison)
    return exit_code(comparison.verdict, asked.require)


def columns(console: Console) -> int:
    """How wide words may run: as the terminal, within reason."""
    return min(console.width, MOST_COLUMNS) if console.is_terminal else MOST_COLUMNS


def exit_code(verdict: Verdict, require: str) -> int:
    """0, 1 if it is wrong, 3 if what was asked for cannot be told."""
    if verdict.functional == FAILED:
        return EXIT_FAILED
    if verdict.functional == INCONCLUSIVE:
        return EXIT_INCONCLUSIVE
    if require == "timing" and verdict.timing == INCONCLUSIVE:
        return EXIT_INCONCLUSIVE
    return 0
