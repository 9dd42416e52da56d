"""`testbed new policy`: a file to begin a policy of one's own with."""

from pathlib import Path

import click

from scheduler.lookup import file_of
from testbed.errors import InputError
from testbed.policies import choose_one
from testbed.starter import write_starter


@click.group("new")
def command() -> None:
    """Write a file to begin with."""


@command.command("policy")
@click.argument("name")
@click.option(
    "--from", "base", default="dualpath", show_default=True,
    help="The policy that it changes, by name.",
)  # fmt: skip
def policy(name: str, base: str) -> None:
    """Write NAME.py: a policy that runs as it is, and what there is to change about it."""
    if file_of(base):
        raise InputError(f"--from {base}: copy the file instead, or name a policy without a file")
    path, class_name = write_starter(name, choose_one(base), Path())
    click.echo(str(path))
    click.echo(
        f"wrote {path}; next: testbed compare weka.yaml --world virtual --policies "
        f"{base},{path}:{class_name}",
        err=True,
    )
