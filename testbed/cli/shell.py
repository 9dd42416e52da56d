"""`testbed shell`: a shell in one host, or Mininet's command line on the whole cluster."""

import os
from pathlib import Path

import click

from testbed.cli.clusters import cluster_option
from testbed.cli.exec import become
from testbed.clusters.client import Cluster


@click.command("shell")
@cluster_option
@click.argument("host", required=False)
@click.option(
    "--script", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Commands of Mininet's command line, from a file.",
)  # fmt: skip
def command(cluster: str | None, host: str | None, script: Path | None) -> None:
    """A shell in HOST; without one, stock Mininet's command line: nodes, net, pingall, py ..."""
    live = Cluster(cluster)
    if host is not None:
        become(live, host, [os.environ.get("SHELL", "/bin/sh")])
    from testbed.fabric.attached import attach, command_line

    view = live.look()
    hosts = {one.name: one.nics for one in view.hosts}
    command_line(attach(hosts, view.switches, live.enter), None if script is None else str(script))
