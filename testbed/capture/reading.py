"""What a user asks of a capture: which frames, of which request, and in which class they went."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from testbed.capture.records import Frame
from testbed.capture.summary import PORT_BASE, Summary, summarise


class Wanted(msgspec.Struct, frozen=True):
    """Which frames; None takes all. `dscp` are frames that this mark carried, at least in part."""

    request: int | None = None
    traffic_class: str | None = None
    dscp: int | None = None

    def takes(self, frame: Frame) -> bool:
        """Whether the frame is asked for."""
        return (
            self.request in (None, frame.request)
            and self.traffic_class in (None, frame.traffic_class)
            and (self.dscp is None or self.dscp in frame.marks)
        )


class Taken(msgspec.Struct):
    """The frames asked for that went one way, in one class, under the same marks.

    `bytes` are all that was captured of them, `kv_bytes` the KV inside.
    """

    outgoing: bool | None
    traffic_class: str
    marks: tuple[int, ...]
    frames: int = 0
    bytes: int = 0
    kv_bytes: int = 0
    missing_bytes: int = 0


class Reading(msgspec.Struct):
    """A capture's totals, and those of the frames asked for."""

    summary: Summary
    wanted: Wanted
    taken: list[Taken]
    frames: list[Frame] = []

    @property
    def complete(self) -> bool:
        """Whether the file has every byte that crossed, as far as it can tell."""
        summary = self.summary
        return not (
            summary.dropped
            or summary.cut_short
            or any(total.missing_bytes for total in summary.classes)
        )


def read(
    path: Path,
    wanted: Wanted,
    tell: Callable[[Frame], None] = lambda _: None,
    port_base: int = PORT_BASE,
) -> Reading:
    """Read a capture; `tell` gets the frames that are asked for, as they end."""
    found: dict[tuple[bool | None, str, tuple[int, ...]], Taken] = {}

    def hear(frame: Frame) -> None:
        if not wanted.takes(frame):
            return
        key = frame.outgoing, frame.traffic_class, frame.marks
        total = found.setdefault(key, Taken(*key))
        total.frames += 1
        total.bytes += frame.bytes - frame.missing_bytes
        total.kv_bytes += frame.payload_bytes - frame.missing_bytes
        total.missing_bytes += frame.missing_bytes
        tell(frame)

    summary = summarise(path, hear, port_base=port_base)
    return Reading(summary, wanted, list(found.values()))
