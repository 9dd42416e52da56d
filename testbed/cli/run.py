"""`testbed run`: one experiment under one policy."""

from pathlib import Path

import click

from testbed.cli.options import experiment_options, load, play_and_tell
from testbed.cli.schedulers import scheduler_options, scheduler_word
from testbed.errors import InputError

DEFAULT = "dualpath"


@click.command("run")
@experiment_options(require="functional")
@click.option(
    "--policy",
    help="A policy, by name or as my_policy.py:MyPolicy.  [default: dualpath]",
)
@scheduler_options
def command(
    experiment: Path,
    seed: int | None,
    time_scale: float | None,
    world: str,
    workload: str | None,
    aps: float | None,
    settings: tuple[str, ...],
    require: str,
    runs: Path,
    as_json: bool,
    policy: str | None,
    scheduler_cmd: str | None,
    scheduler: str | None,
) -> int:
    """Play EXPERIMENT under one policy and check every token of it."""
    spec, plan = load(experiment, seed, time_scale, workload, settings, world, aps)
    process = scheduler_word(scheduler_cmd, scheduler)
    if process is not None and policy is not None:
        raise InputError("--policy and a scheduler of your own are two schedulers; choose one")
    words = [] if process is not None else [policy or DEFAULT]
    return play_and_tell(
        experiment, spec, plan, words, runs, require, as_json, world, process=process
    )
