"""A capture for people: a line a frame, then tables of what went in which class and mark."""

from rich.console import Console
from rich.table import Table

from testbed.capture.reading import Reading, Wanted
from testbed.capture.records import Frame, mark_name
from testbed.capture.summary import Summary

WAYS = {True: "sent", False: "received", None: "both ways"}


def frame_line(frame: Frame, start_s: float) -> str:
    """One frame, its time counted from `start_s`."""
    return f"{frame.at_s - start_s:11.6f}  {WAYS[frame.outgoing]:8}  {frame.line()}"


def show(reading: Reading, console: Console) -> None:
    """Totals, and everything that a reader should not overlook."""
    summary = reading.summary
    dropped = "the file does not say how many" if summary.dropped is None else summary.dropped
    console.print(
        f"\n{summary.interface}: {summary.packets} packets, dropped by the writer: {dropped}",
        markup=False, highlight=False,
    )  # fmt: skip
    if reading.wanted != Wanted():
        _print(_taken(reading), console)
    if summary.classes:
        _print(_classes(summary), console)
    _print(_marks(summary), console)
    for wrong in summary.mis_marked:
        console.print(f"mis-marked: {wrong}", style="red", markup=False, soft_wrap=True)
    if lost := sum(total.missing_bytes for total in summary.classes):
        console.print(
            f"{lost} B were not captured (cut by --snaplen, or dropped): frames that begin in them "
            "are not told, and not counted",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip
    if summary.cut_short:
        console.print("the file ends inside a packet: its writer was killed", style="yellow")


def checked(reading: Reading) -> str:
    """What a check of a capture without a mis-marked flow has found, in words."""
    ours = reading.summary.checked_flows
    if not ours:
        return (
            f"nothing was checked: of {reading.summary.packets} packets none is of a flow on a "
            "class's port (--port-base has the first); capture while a run goes on"
        )
    segments = sum(sum(flow.packets_by_dscp.values()) for flow in ours)
    text = f"no flow is mis-marked ({len(ours)} flows, each way one; {segments} segments)"
    return text if reading.complete else f"{text}; but the file has not all that crossed"


def _print(table: Table, console: Console) -> None:
    """The title by itself, for a table would break it at its own width."""
    console.print(table.title, style="italic", markup=False, highlight=False)
    table.title = None
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=None, padding=(0, 2, 0, 0), title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in ("way", "class", "DSCP") else "right")
    return table


def _taken(reading: Reading) -> Table:
    wanted = reading.wanted
    words = [f"request {wanted.request}"] if wanted.request is not None else []
    words += [f"class {wanted.traffic_class}"] if wanted.traffic_class is not None else []
    words += [f"DSCP {mark_name(wanted.dscp)}"] if wanted.dscp is not None else []
    table = _table(
        "\n" + ", ".join(words),
        "way", "class", "DSCP", "frames", "bytes", "of them KV", "not captured",
    )  # fmt: skip
    for total in reading.taken:
        table.add_row(
            WAYS[total.outgoing], total.traffic_class,
            ", ".join(mark_name(mark) for mark in total.marks),
            str(total.frames), str(total.bytes), str(total.kv_bytes), str(total.missing_bytes),
        )  # fmt: skip
    return table


def _classes(summary: Summary) -> Table:
    table = _table(
        "\nby class, as ports tell it (TCP payload, each byte once)",
        "way", "class", "bytes", "again", "not captured", "frames", "KV in them", "unparsed",
    )  # fmt: skip
    for total in summary.classes:
        table.add_row(
            WAYS[total.outgoing], total.traffic_class, str(total.payload_bytes),
            str(total.retransmitted_bytes), str(total.missing_bytes), str(total.frames),
            str(total.frame_payload_bytes), str(total.unparsed_bytes),
        )  # fmt: skip
    return table


def _marks(summary: Summary) -> Table:
    table = _table("\nby mark (on the wire, headers included)", "way", "DSCP", "bytes", "segments")
    for total in summary.marks:
        name = mark_name(total.dscp)
        table.add_row(WAYS[total.outgoing], name, str(total.wire_bytes), str(total.wire_packets))
    return table
