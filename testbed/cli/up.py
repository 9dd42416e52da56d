"""`testbed up`: the network of an experiment, alive until `testbed down`."""

from pathlib import Path

import click

from testbed.cli.output import print_json
from testbed.clusters.keeper import Step
from testbed.clusters.names import as_name
from testbed.clusters.up import bring_up
from testbed.spec import load_experiment


@click.command("up")
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--name", help="What to call it; the experiment's file name if not given.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Override a value of the experiment.",
)  # fmt: skip
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Folder for its log.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="What came up, as JSON.")
def command(
    experiment: Path, name: str | None, settings: tuple[str, ...], runs: Path, as_json: bool
) -> None:
    """Bring up the hosts and links of EXPERIMENT, without engines: for programs of your own."""
    spec = load_experiment(experiment, list(settings))
    name = name or as_name(experiment.stem)

    def tell(step: Step) -> None:
        if step.seconds:
            click.echo(f"{name}: {step.phase} in {step.seconds:.2f} s", err=True)

    with bring_up(spec, name, runs, tell) as held:
        view = held.cluster.look()
        held.let_go()
    if as_json:
        print_json({"name": name, "folder": str(held.folder), "hosts": len(view.hosts)})
        return
    worst = max((abs(one.measured_bps / one.asked_bps - 1) for one in view.rates), default=0.0)
    click.echo(
        f"{name} is up: {len(view.hosts)} hosts, {len(view.links)} data links; rates measured "
        f"within {worst:.2%} of what was asked"
    )
    first = view.hosts[0].name
    click.echo(f"next: testbed status {name} | testbed exec -c {name} {first} -- ip addr", err=True)
