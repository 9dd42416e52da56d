"""`testbed run`: one experiment under one policy."""

import click

from testbed.cli.options import Asked, experiment_options, play_and_tell
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
    asked: Asked, policy: str | None, scheduler_cmd: str | None, scheduler: str | None
) -> int:
    """Play EXPERIMENT under one policy and check every token of it."""
    process = scheduler_word(scheduler_cmd, scheduler)
    if process is not None and policy is not None:
        raise InputError("--policy and a scheduler of your own are two schedulers; choose one")
    words = [] if process is not None else [policy or DEFAULT]
    return play_and_tell(asked, words, process)
