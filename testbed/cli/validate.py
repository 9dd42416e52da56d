"""`testbed validate`: is an experiment valid, and what may be expected of it?"""

from pathlib import Path

import click
import msgspec

from testbed.facts import facts, text
from testbed.spec import load_experiment
from testbed.workload import build_workload

POLICIES = ("basic", "static-split", "dualpath")


@click.command("validate")
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check an EXPERIMENT file; create nothing."""
    spec = load_experiment(experiment, overrides)
    found = facts(str(experiment), spec, build_workload(spec.workload, spec.seed), POLICIES)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{experiment} is valid")
    click.echo(text(found))
