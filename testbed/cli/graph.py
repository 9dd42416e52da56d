"""`testbed graph`: the network of an experiment or of a live cluster as a picture."""

import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from testbed.cli.clusters import Seconds, cluster_option, one_name
from testbed.clusters import graph, names
from testbed.clusters.client import Cluster
from testbed.clusters.svg import svg
from testbed.errors import InputError
from testbed.spec import load_experiment
from testbed.worlds.wires import wire_plan

FORMATS: dict[str, Callable[[graph.Graph], str]] = {
    "svg": svg, "mermaid": graph.mermaid, "dot": graph.dot,
}  # fmt: skip
SUFFIXES = {".svg": "svg", ".mmd": "mermaid", ".md": "mermaid", ".dot": "dot", ".gv": "dot"}


@click.command("graph")
@cluster_option
@click.argument("what", required=False)
@click.option("--format", "as_format", type=click.Choice(list(FORMATS)), help="Else by FILE's end.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="Where to; standard output if not given.",
)  # fmt: skip
@click.option(
    "--seconds", type=Seconds(0.05, 60), default=1.0, show_default=True,
    help="How long to measure a live cluster's load.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Links and loads as JSON.")
def command(
    what: str | None, cluster: str | None, as_format: str | None, output: Path | None,
    seconds: float, as_json: bool,
) -> None:  # fmt: skip
    """Draw WHAT: an experiment's file, or a live cluster with what its links carry now."""
    what = one_name(what, cluster)
    drawn = _of_file(Path(what)) if what and what.endswith((".yaml", ".yml")) else _of_live(
        what, seconds
    )  # fmt: skip
    if as_json:
        text = msgspec.json.encode(list(drawn.edges.values())).decode() + "\n"
    else:
        text = FORMATS[as_format or _by_suffix(output)](drawn)
    if output is None:
        click.echo(text, nl=False)
        return
    output.write_text(text)
    click.echo(f"{output}: {drawn.title}", err=True)


def _by_suffix(output: Path | None) -> str:
    if output is None:
        return "svg"
    if output.suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise InputError(f"{output}: no format ends so; use {known}, or --format")
    return SUFFIXES[output.suffix]


def _of_file(path: Path) -> graph.Graph:
    experiment = load_experiment(path, [])
    wires = wire_plan(experiment)
    return graph.planned(path.stem, wires, wires.rates().payload_bps)


def _of_live(name: str | None, seconds: float) -> graph.Graph:
    cluster = Cluster(names.find(name))
    before = cluster.look()
    # Not a wait for anything: the length of a measurement.
    time.sleep(seconds)
    return graph.live(before, cluster.look(), before.about.wires.shape)
