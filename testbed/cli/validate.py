"""`testbed validate`: is an experiment valid, and what may be expected of it?"""

from pathlib import Path

import click
import msgspec
from rich.console import Console

from testbed.cli.options import columns, load
from testbed.facts import facts, text
from testbed.policies import choose

POLICIES = ("basic", "static-split", "dualpath")


@click.command("validate")
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--workload", help="Kind of workload: fixed, weka or replay.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    experiment: Path, workload: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Check an EXPERIMENT file; create nothing."""
    spec, plan = load(experiment, None, None, workload, overrides)
    found = facts(str(experiment), spec, plan, choose(POLICIES))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{experiment} is valid")
    click.echo(text(found, columns(Console())))
