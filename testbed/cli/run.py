"""`testbed run`: one experiment under one policy."""

from pathlib import Path

import click

from testbed.cli.options import experiment_options, load, play_and_tell


@click.command("run")
@experiment_options(require="functional")
@click.option(
    "--policy",
    default="dualpath",
    show_default=True,
    help="A policy, by name or as my_policy.py:MyPolicy.",
)
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
    policy: str,
) -> int:
    """Play EXPERIMENT under one policy and check every token of it."""
    spec, plan = load(experiment, seed, time_scale, workload, settings, world, aps)
    return play_and_tell(experiment, spec, plan, [policy], runs, require, as_json, world)
