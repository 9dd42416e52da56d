"""`testbed link`: the links of a live cluster, one value at a time."""

import click
from rich.console import Console
from rich.table import Table

from testbed.cli.clusters import cluster_option, link_id, mbps, rate_bps, time_s
from testbed.cli.output import print_json
from testbed.clusters.client import Cluster
from testbed.clusters.protocol import View
from testbed.delays import NOBODY
from testbed.errors import InputError
from testbed.fabric.linkstate import LinkState
from testbed.yamlfile import nearest


@click.group("link")
def command() -> None:
    """Show, change and reset the links of a live cluster, also while a run goes on."""


@command.command("show")
@cluster_option
@click.argument("link", required=False)
@click.option("--json", "as_json", is_flag=True, help="Values as JSON.")
def show(cluster: str | None, link: str | None, as_json: bool) -> None:
    """Values of LINK (HOST:NIC), or of all links; payload rates."""
    _tell(Cluster(cluster).look(), link, as_json)


@command.command("set")
@cluster_option
@click.argument("link")
@click.option("--rate", metavar="RATE", help="Payload rate each way: 200Mbps, 1.5Gbps.")
@click.option("--delay", metavar="TIME", help="One-way delay: 2ms, 250us, 0ms.")
@click.option("--json", "as_json", is_flag=True, help="The new values as JSON.")
def set_(
    cluster: str | None, link: str, rate: str | None, delay: str | None, as_json: bool
) -> None:
    """Change what is given of LINK (HOST:NIC), at both ends; what is not given stays."""
    if rate is None and delay is None:
        raise InputError(f"nothing to change on {link}; give --rate or --delay")
    owner, nic = link_id(link)
    live = Cluster(cluster)
    live.set_link(
        owner,
        nic,
        payload_bps=None if rate is None else rate_bps(rate),
        delay_s=None if delay is None else time_s(delay),
    )
    _tell(live.look(), link, as_json)


@command.command("reset")
@cluster_option
@click.argument("link", required=False)
@click.option("--json", "as_json", is_flag=True, help="The values as JSON.")
def reset(cluster: str | None, link: str | None, as_json: bool) -> None:
    """Back to the topology's values: LINK (HOST:NIC), or all links."""
    live = Cluster(cluster)
    live.reset_links(*(() if link is None else link_id(link)))
    _tell(live.look(), link, as_json)


def _tell(view: View, link: str | None, as_json: bool) -> None:
    states = [one.state for one in view.links]
    if link is not None:
        wanted = link_id(link)
        states = [state for state in states if (state.owner, state.nic) == wanted]
        if not states:
            known = [f"{one.state.owner}:{one.state.nic}" for one in view.links]
            raise InputError(f"no data link {link}; {nearest(link, known, 'link')}")
    if as_json:
        print_json(states)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("link", "rate, Mbit/s", "of", "delay, ms", "of", "by"):
        table.add_column(title, justify="left" if title in ("link", "by") else "right")
    for state in states:
        table.add_row(*_row(state))
    Console().print(table)


def _row(state: LinkState) -> tuple[str, ...]:
    return (
        f"{state.owner}:{state.nic}",
        mbps(state.payload_bps), mbps(state.nominal_bps),
        f"{state.delay_s * 1e3:g}", f"{state.nominal_delay_s * 1e3:g}",
        "" if state.delay_by == NOBODY else state.delay_by,
    )  # fmt: skip
