"""`testbed capture`: packets of one interface into a file, and such a file back to frames."""

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from engines.real.frames import CLASSES
from testbed.capture.page import checked, frame_line, show
from testbed.capture.reading import Reading, Wanted, read
from testbed.capture.records import Frame
from testbed.capture.summary import PORT_BASE
from testbed.cli.clusters import Seconds, cluster_option
from testbed.cli.output import print_json
from testbed.errors import InputError

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 3
OF_RECORDING = ("cluster", "write", "seconds", "count", "snaplen")
OF_READING = ("request", "traffic_class", "dscp", "totals", "check", "port_base")


@click.command("capture")
@cluster_option
@click.argument("where", metavar="[HOST:IF]", required=False)
@click.option("-w", "--write", metavar="FILE", help="Where to; - is standard output.")
@click.option("--seconds", type=Seconds(0, min_open=True), help="End after so long.")
@click.option("--count", type=click.IntRange(1), help="End after so many packets.")
@click.option(
    "--snaplen", type=int, help="Bytes kept of each packet; frames beyond are lost.  [default: all]"
)
@click.option(
    "--read", "file", type=click.Path(path_type=Path), metavar="FILE",
    help="Decode this pcap or pcapng file instead, whoever wrote it.",
)  # fmt: skip
@click.option("--request", type=int, help="Only frames of this request.")
@click.option(
    "--class", "traffic_class", help="Only frames of this class.",
    type=click.Choice([str(name) for name in CLASSES], case_sensitive=False),
)  # fmt: skip
@click.option("--dscp", type=click.IntRange(0, 63), help="Only frames that this mark carried.")
@click.option("--totals", is_flag=True, help="Totals alone, no line a frame.")
@click.option(
    "--check", is_flag=True,
    help="Exit 1 if a flow is mis-marked; 3 if packets are missing, or there is no flow to check.",
)  # fmt: skip
@click.option(
    "--port-base", type=click.IntRange(1, 65533),
    help=f"First of the three ports of the classes.  [default: {PORT_BASE}]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="What came of it as JSON.")
def command(where: str | None, file: Path | None, as_json: bool, **options: Any) -> int:
    """Record what crosses HOST:IF of a live cluster until Ctrl-C; or --read a recording.

    HOST `lab` has the switches' ports; pe0:uplink is a node's link to the compute switch.
    """
    if (where is None) is (file is None):
        raise InputError("name one interface, as pe0-buf:snic, or one file with --read")
    stray = [
        name
        for name in (OF_READING if file is None else OF_RECORDING)
        if options[name] not in (None, False)
    ]
    if stray:
        word = stray[0].replace("traffic_class", "class").replace("_", "-")
        other = "is for --read" if file is None else "is for a recording, and --read makes none"
        raise InputError(f"--{word} {other}; leave it out")
    if file is None:
        assert where is not None
        _record(where, as_json, **{name: options[name] for name in OF_RECORDING})
        return 0
    return _read(file, as_json, **{name: options[name] for name in OF_READING})


def _record(
    where: str,
    as_json: bool,
    cluster: str | None,
    write: str | None,
    seconds: float | None,
    count: int | None,
    snaplen: int | None,
) -> None:
    # Reading a file needs none of these, nor what they are built on.
    from testbed.clusters.client import Cluster
    from testbed.clusters.recording import record
    from testbed.fabric.capture import SNAPLEN_BYTES

    path = write or f"{where.replace(':', '-')}.pcapng"
    if as_json and path == "-":
        raise InputError("-w - takes standard output for packets; leave out --json")
    stopped: list[int] = []
    capture = record(
        Cluster(cluster), where, path, snaplen=SNAPLEN_BYTES if snaplen is None else snaplen,
        count=count, seconds=seconds,
    )  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all are a good end
        signal.signal(number, lambda number, _: stopped.append(number))
    click.echo(f"recording {where} into {path}; end it with Ctrl-C", err=True)
    try:
        end = capture.run(lambda: bool(stopped))
    except BrokenPipeError:
        with suppress(OSError):
            sys.stdout.close()  # nobody reads the packets any more: that ends it
        return
    if as_json:
        print_json(end)
        return
    cut = f", {end.cut} of them cut to {snaplen} B" if end.cut else ""
    why = f" ({end.why})" if end.why else ""
    click.echo(f"{end.packets} packets{cut}, {end.dropped} dropped{why}", err=True)
    if path != "-":
        click.echo(f"next: testbed capture --read {path}", err=True)


def _read(
    file: Path,
    as_json: bool,
    request: int | None,
    traffic_class: str | None,
    dscp: int | None,
    totals: bool,
    check: bool,
    port_base: int | None,
) -> int:
    frames: list[Frame] = []
    start_s: list[float] = []

    def tell(frame: Frame) -> None:
        if as_json:
            frames.append(frame)
        else:
            start_s.append(frame.at_s)  # the first one is what the others count from
            click.echo(frame_line(frame, start_s[0]))

    wanted = Wanted(request, traffic_class, dscp)
    reading = read(file, wanted, (lambda _: None) if totals else tell, port_base or PORT_BASE)
    reading.frames = frames
    if as_json:
        print_json(reading)
    else:
        show(reading, Console())
    return _check(reading, as_json) if check else 0


def _check(reading: Reading, as_json: bool) -> int:
    if reading.summary.mis_marked:
        return EXIT_FAILED
    if not as_json:
        click.echo(checked(reading))
    all_told = reading.summary.checked_flows and reading.complete
    return 0 if all_told else EXIT_INCONCLUSIVE
