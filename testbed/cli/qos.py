"""`testbed qos`: traffic classes of a live cluster, and marks for programs that cannot mark."""

import click
from rich.console import Console
from rich.table import Table

from engines.seams.transport import DSCP, TrafficClass
from testbed.cli.clusters import cluster_option, mark_words, megabytes
from testbed.cli.output import print_json
from testbed.clusters.client import Cluster
from testbed.clusters.protocol import LinkView, View
from testbed.errors import InputError
from testbed.fabric.counters import LinkClasses
from testbed.fabric.wire import KV_CLASS, MODEL_CLASS

NAMES = {MODEL_CLASS: "MODEL, CTRL", KV_CLASS: "KV, rest"}


@click.group("qos")
def command() -> None:
    """Traffic classes: MODEL (EF) and CTRL (CS6) first with 99 %, KV (CS1) and the rest 1 %."""


@command.command("show")
@cluster_option
@click.option("--all", "every", is_flag=True, help="Also links that carried nothing.")
@click.option("--json", "as_json", is_flag=True, help="Counters of all links as JSON.")
def show(cluster: str | None, every: bool, as_json: bool) -> None:
    """Whether classes are on, marks by port, and what each class of each link carried.

    MB are payload, without headers; what waits is on the wire, with them.
    """
    _tell(Cluster(cluster).look(), every, as_json)


@command.command("on")
@cluster_option
def on(cluster: str | None) -> None:
    """Have links tell classes apart."""
    Cluster(cluster).set_qos(True)
    click.echo("classes are on")


@command.command("off")
@cluster_option
def off(cluster: str | None) -> None:
    """Have everything share one class: what isolation is for shows then."""
    Cluster(cluster).set_qos(False)
    click.echo("classes are off")


@command.command("mark")
@cluster_option
@click.argument("port")
@click.argument("as_class", metavar="CLASS")
@click.option("--host", help="At this host alone.")
def mark(cluster: str | None, port: str, as_class: str, host: str | None) -> None:
    """Mark what crosses PORT (5201, udp/53) as CLASS: MODEL, KV, CTRL, a DSCP, or none."""
    proto, number = _port(port)
    dscp = _dscp(as_class)
    Cluster(cluster).mark(proto, number, dscp, host)
    where = host or "every host"
    click.echo(f"{proto}/{number} at {where}: {mark_words(dscp)}")


def _port(text: str) -> tuple[str, int]:
    proto, _, number = text.rpartition("/")
    proto = proto or "tcp"
    if proto not in ("tcp", "udp") or not number.isdigit() or not 0 < int(number) < 65536:
        raise InputError(f"port {text!r}: write it like 5201, tcp/5201 or udp/53")
    return proto, int(number)


def _dscp(word: str) -> int | None:
    if word.lower() == "none":
        return None
    if word.lower() in DSCP:
        return DSCP[TrafficClass(word.lower())]
    if word.isdigit() and int(word) < 64:
        return int(word)
    raise InputError(f"class {word!r}: use MODEL, KV, CTRL, none, or a DSCP from 0 to 63")


def _tell(view: View, every: bool, as_json: bool) -> None:
    if as_json:
        links = {f"{one.state.owner}:{one.state.nic}": one.classes for one in view.links}
        print_json({"qos": view.qos, "marks": view.marks, "links": links})
        return
    console = Console()
    console.print(f"classes are {'on' if view.qos else 'off'}")
    for one in view.marks:
        where = one.host or "every host"
        console.print(f"{one.proto}/{one.port} at {where}: {mark_words(one.dscp)}, by {one.by}")
    shown = [link for link in view.links if link.classes and (every or _used(link.classes))]
    if shown:
        console.print(_table(shown))
    if quiet := len([link for link in view.links if link.classes]) - len(shown):
        whose = f"{quiet} other links" if shown else f"all {quiet} links"
        console.print(f"{whose} carried nothing yet; --all has them")


def _used(classes: LinkClasses) -> bool:
    """Whether anything crossed the link, waits for it or was dropped."""
    counted = [one for end in (classes.sent, classes.received) for one in end.values()]
    return any(one.payload_bytes > 0 or one.backlog_bytes or one.dropped_packets for one in counted)


def _table(links: list[LinkView]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("link", "class", "MB out", "MB in", "waits, KB", "dropped"):
        table.add_column(title, justify="left" if title in ("link", "class") else "right")
    for link in links:
        if link.classes is not None:
            for handle, title in NAMES.items():
                row = _row(link.classes, handle)
                table.add_row(f"{link.state.owner}:{link.state.nic}", title, *row)
    return table


def _row(classes: LinkClasses, handle: str) -> tuple[str, ...]:
    ends = [end[handle] for end in (classes.sent, classes.received) if handle in end]
    sent = [megabytes(end.payload_bytes) for end in ends] or ["", ""]
    waits = sum(end.backlog_bytes for end in ends) / 1e3
    return (*sent, f"{waits:.1f}", str(sum(end.dropped_packets for end in ends)))
