"""`testbed down`: end a cluster; nothing of it is left."""

import click

from testbed.cli.clusters import named, one_name
from testbed.cli.output import print_json
from testbed.clusters import names
from testbed.clusters.client import Cluster


@click.command("down")
@named
@click.option("--all", "every", is_flag=True, help="All clusters of this user.")
@click.option("--json", "as_json", is_flag=True, help="What went down, as JSON.")
def command(name: str | None, cluster: str | None, every: bool, as_json: bool) -> None:
    """End the cluster NAME (the only one, if it is not named): hosts, links and programs."""
    name = one_name(name, cluster)
    ended = names.live() if every else [names.find(name)]
    for one in ended:
        Cluster(one).down()
    if as_json:
        print_json({"down": ended})
    elif ended:
        click.echo(f"{', '.join(ended)}: down")
