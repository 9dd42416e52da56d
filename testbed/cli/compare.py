"""`testbed compare`: one experiment under several policies, side by side."""

from pathlib import Path

import click

from scheduler.lookup import names
from testbed.cli.options import experiment_options, load, play_and_tell
from testbed.cli.schedulers import scheduler_options, scheduler_word


@click.command("compare")
@experiment_options(require="timing")
@click.option(
    "--policies", default="basic,dualpath", show_default=True,
    help="Names or my_policy.py:MyPolicy, by commas; speed-ups are over the first. Names are "
    f"{', '.join(names())}.",
)  # fmt: skip
@scheduler_options
@click.option("--fresh", is_flag=True, help="Play all anew, also what finished runs would repeat.")
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
    policies: str,
    scheduler_cmd: str | None,
    scheduler: str | None,
    fresh: bool,
) -> int:
    """Play EXPERIMENT under each policy and say who wins, by how much, and why.

    A policy is played once for the same experiment, seed, world and code: what is unchanged since
    a run in RUNS is taken from there, and said to be.
    """
    spec, plan = load(experiment, seed, time_scale, workload, settings, world, aps)
    words = [word.strip() for word in policies.split(",") if word.strip()]
    process = scheduler_word(scheduler_cmd, scheduler)
    return play_and_tell(
        experiment, spec, plan, words, runs, require, as_json, world, fresh, process
    )
