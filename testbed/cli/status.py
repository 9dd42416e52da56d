"""`testbed status`: which clusters are up, and how they are."""

import time

import click
from rich.console import Console
from rich.table import Table

from testbed.cli.clusters import mark_words, mbps, megabytes, named, one_name
from testbed.cli.output import print_json
from testbed.clusters import names
from testbed.clusters.client import Cluster
from testbed.clusters.protocol import LinkView, View
from testbed.errors import InputError, RunFailed
from testbed.fabric.wire import MODEL_CLASS

LOOK_S = 2.0  # one that is stopped must not hide the others


@click.command("status")
@named
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def command(name: str | None, cluster: str | None, as_json: bool) -> int:
    """Show the cluster NAME; without one, all that are up, or the only one.

    MB are payload: a link's without headers, and what of it went as MODEL (or CTRL).
    """
    name = one_name(name, cluster)
    wanted = [names.find(name)] if name is not None else names.live()
    views = [view for one in wanted if (view := _look(one)) is not None]
    if wanted and not views:
        return 1
    if as_json:
        print_json(views)
        return 0
    if not views:
        click.echo("no cluster is up; bring one up with testbed up EXPERIMENT")
        return 0
    console = Console()
    for view in views:
        _summary(view, console)
        if len(views) == 1:
            console.print(_links(view))
    return 0


def _look(name: str) -> View | None:
    try:
        return Cluster(name).look(LOOK_S)
    except (RunFailed, InputError) as error:
        if name in names.live():  # else it went down meanwhile
            click.echo(f"testbed: {error}", err=True)
        return None


def _summary(view: View, console: Console) -> None:
    about = view.about
    up_s = time.monotonic() - about.since_s
    changed = [link for link in view.links if not _nominal(link)]
    marks = [f"{m.host or 'all hosts'} {m.proto}/{m.port} {mark_words(m.dscp)}" for m in view.marks]
    console.print(
        f"[bold]{about.name}[/] ({about.kind}, {about.privilege}): {view.phase} for {up_s:.0f} s, "
        f"{len(view.hosts)} hosts, {len(view.links)} data links, {len(changed)} changed; "
        f"classes {'on' if view.qos else 'off'}; {about.folder}",
        soft_wrap=True,
    )
    for mark in marks:
        console.print(f"  marks {mark}", soft_wrap=True)


def _nominal(link: LinkView) -> bool:
    state = link.state
    return (state.payload_bps, state.delay_s) == (state.nominal_bps, state.nominal_delay_s)


def _links(view: View) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("link", "switch", "rate, Mbit/s", "MB out/in", "of it MODEL", "dropped"):
        named = title in ("link", "switch")
        table.add_column(title, justify="left" if named else "right", no_wrap=True)
    for link in view.links:
        state, counters = link.state, link.counters
        key = f"{state.owner}:{state.nic}"
        moved = (counters.sent_payload_bytes, counters.received_payload_bytes)
        table.add_row(key, view.switches.get(key, ""), _rate(link), _mb(moved), *_of_classes(link))
    return table


def _rate(link: LinkView) -> str:
    state = link.state
    shown = mbps(state.payload_bps)
    if state.payload_bps != state.nominal_bps:
        shown = f"{shown} of {mbps(state.nominal_bps)}"
    return f"{shown} +{state.delay_s * 1e3:g} ms" if state.delay_s else shown


def _mb(counted: tuple[int, int]) -> str:
    return "/".join(megabytes(one) for one in counted)


def _of_classes(link: LinkView) -> tuple[str, str]:
    if link.classes is None:
        return "", ""
    ends = (link.classes.sent, link.classes.received)
    out, into = (end[MODEL_CLASS].payload_bytes if MODEL_CLASS in end else 0 for end in ends)
    dropped = sum(counted.dropped_packets for end in ends for counted in end.values())
    return _mb((out, into)), str(dropped)
