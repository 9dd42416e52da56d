"""`testbed capture`: packets of one interface into a file, and such a file back to frames."""

from pathlib import Path

import click
from rich.console import Console

from engines.real.frames import CLASSES
from testbed.capture.page import frame_line, show
from testbed.capture.reading import Wanted, read
from testbed.capture.records import Frame
from testbed.capture.summary import PORT_BASE
from testbed.cli.output import print_json

EXIT_FAILED, EXIT_INCONCLUSIVE = 1, 3


@click.command("capture")
@click.option(
    "--read", "file", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="Decode this pcap or pcapng file, whoever wrote it.",
)  # fmt: skip
@click.option("--request", type=int, help="Only frames of this request.")
@click.option(
    "--class", "traffic_class", help="Only frames of this class: MODEL, KV or CTRL.",
    type=click.Choice([str(name) for name in CLASSES], case_sensitive=False),
)  # fmt: skip
@click.option("--dscp", type=click.IntRange(0, 63), help="Only frames that this mark carried.")
@click.option("--totals", is_flag=True, help="Totals alone, no line a frame.")
@click.option(
    "--check", is_flag=True,
    help="Exit 1 if a flow is mis-marked, 3 if bytes are not in the file.",
)  # fmt: skip
@click.option(
    "--port-base", type=click.IntRange(1, 65533), default=PORT_BASE, show_default=True,
    help="First of the three ports of the classes.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Frames and totals as JSON.")
def command(
    file: Path,
    request: int | None,
    traffic_class: str | None,
    dscp: int | None,
    totals: bool,
    check: bool,
    port_base: int,
    as_json: bool,
) -> int:
    """Decode a capture: class, mark, message, request, blocks, layer of every frame."""
    console = Console()
    frames: list[Frame] = []
    start_s: list[float] = []

    def tell(frame: Frame) -> None:
        if as_json:
            frames.append(frame)
        else:
            start_s.append(frame.at_s)  # the first one is what the others count from
            click.echo(frame_line(frame, start_s[0]))

    reading = read(
        file, Wanted(request, traffic_class, dscp), (lambda _: None) if totals else tell, port_base
    )
    reading.frames = frames
    if as_json:
        print_json(reading)
    else:
        show(reading, console)
    if check and reading.summary.mis_marked:
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if check and not reading.complete else 0
