"""One direction of a connection, byte by byte in order, into frames of the transport.

It may be joined anywhere: without a frame's start it looks for the next one that is whole.
"""

import struct
from collections.abc import Callable
from typing import Any

from engines.errors import TransferError
from engines.real import frames
from engines.real.frames import CLASSES, HEADER_BYTES, MAGIC, Header, Kind, Order
from testbed.capture.records import Frame
from testbed.capture.segments import Flow

_MESSAGES = (Kind.MESSAGE, Kind.WRITE)


class FrameParser:
    """Calls `emit` with each frame as soon as its last byte is known; the rest is counted.

    `unparsed_bytes` belong to no frame that could be read.
    """

    def __init__(
        self, flow: Flow, outgoing: bool | None, emit: Callable[[Frame], None], *, at_start: bool
    ) -> None:
        self._flow, self._outgoing, self._emit = flow, outgoing, emit
        self._hunting = not at_start
        self._buffer = bytearray()
        self._frame: Frame | None = None
        self._payload_left = 0
        self._at_s = 0.0
        self._marks: set[int] = set()
        self.frame_bytes = self.unparsed_bytes = 0

    def feed(self, data: memoryview, mark: int, at_s: float) -> None:
        """Take the next bytes, which a packet of this mark brought."""
        data = self._into_payload(data, mark)
        if not data:
            return
        if not self._buffer:
            self._begin(mark, at_s)
        self._marks.add(mark)
        self._buffer += data
        while self._buffer and self._frame is None:
            if not (self._hunt() if self._hunting else self._take(mark, at_s)):
                return

    def skip(self, count: int) -> None:
        """Go on behind bytes that the capture lacks; only inside a payload is the place kept."""
        if self._frame is not None:
            inside = min(count, self._payload_left)
            self._payload_left -= inside
            self._frame.missing_bytes += inside
            count -= inside
            if not self._payload_left:
                self._close()
        if count:
            self._lose(len(self._buffer))
            self._hunting = True

    def end(self) -> None:
        """Nothing comes any more: what began and did not end is told as far as it went."""
        if self._frame is not None:
            self._frame.missing_bytes += self._payload_left
            self._payload_left = 0
            self._close()
        self._lose(len(self._buffer))

    def _begin(self, mark: int, at_s: float) -> None:
        self._at_s = at_s
        self._marks = {mark}

    def _into_payload(self, data: memoryview, mark: int) -> memoryview:
        if self._frame is None:
            return data
        inside = min(len(data), self._payload_left)
        self._marks.add(mark)
        self._payload_left -= inside
        if not self._payload_left:
            self._close()
        return data[inside:]

    def _take(self, mark: int, at_s: float) -> bool:
        """One frame's header and note from the buffer, if they are whole."""
        buffer = self._buffer
        if len(buffer) < HEADER_BYTES:
            if not MAGIC.startswith(buffer[: len(MAGIC)]):
                self._hunting = True
                return True
            return False
        try:
            header = frames.unpack(buffer)
        except (TransferError, struct.error):
            self._hunting = True
            return True
        need = HEADER_BYTES + header.note_bytes
        if len(buffer) < need:
            return False
        self._frame = self._opened(header, bytes(buffer[HEADER_BYTES:need]))
        rest = memoryview(bytes(buffer[need:]))
        buffer.clear()
        inside = min(len(rest), header.payload_bytes)
        self._payload_left = header.payload_bytes - inside
        if self._payload_left:
            return False
        self._close()
        if rest[inside:]:
            self._begin(mark, at_s)
            buffer += rest[inside:]
        return True

    def _hunt(self) -> bool:
        """Drop what lies before the next header; keep what may be the beginning of one."""
        useless, found = next_header(self._buffer)
        self._lose(useless)
        self._hunting = not found
        return found

    def _lose(self, count: int) -> None:
        self.unparsed_bytes += count
        del self._buffer[:count]

    def _opened(self, header: Header, note: bytes) -> Frame:
        return Frame(
            at_s=self._at_s, outgoing=self._outgoing, flow=self._flow,
            traffic_class=str(CLASSES[header.traffic_class]), kind=Kind(header.kind).name,
            request=header.request, layer=header.layer,
            order=Order(header.order).name if header.payload_bytes else "",
            sequence=header.sequence, run_id=header.run_id, header_bytes=HEADER_BYTES,
            note_bytes=header.note_bytes, payload_bytes=header.payload_bytes,
            **note_fields(header, note),
        )  # fmt: skip

    def _close(self) -> None:
        frame, self._frame = self._frame, None
        assert frame is not None
        frame.marks = tuple(sorted(self._marks))
        self.frame_bytes += frame.bytes - frame.missing_bytes
        self._emit(frame)


def next_header(data: bytes | bytearray) -> tuple[int, bool]:
    """How many bytes lie before the next frame, and whether its header is whole.

    If it is not, the rest is too short to tell, or could be the first bytes of the magic.
    """
    at = 0
    while (at := data.find(MAGIC, at)) >= 0:
        if len(data) - at < HEADER_BYTES:
            return at, False
        try:
            frames.unpack(data, at)
        except TransferError:
            at += 1
            continue
        return at, True
    keep = next((n for n in (3, 2, 1) if data.endswith(MAGIC[:n])), 0)
    return len(data) - keep, False


def note_fields(header: Header, note: bytes) -> dict[str, Any]:
    """What a frame's note says, as fields of Frame; a malformed one is said to be so."""
    try:
        if header.kind == Kind.HELLO:
            return {"host": frames.decode_hello(note).host}
        if header.kind not in _MESSAGES:
            return {}
        if header.kind == Kind.MESSAGE:
            return _message_fields(frames.decode_message(note))
        bell = frames.decode_doorbell(note)
        return {
            **_message_fields(bell.message),
            "region": bell.target.region,
            "tokens": (bell.target.first, bell.target.last),
        }
    except TransferError:
        return {"message": "unparsed"}


def _message_fields(message: Any) -> dict[str, Any]:
    extents = [*getattr(message, "extents", ())]
    extents += [kept.extent for kept in getattr(message, "kept", ())]
    if (extent := getattr(message, "extent", None)) is not None:
        extents.append(extent)
    blocks = [(extent.first, extent.first + extent.count) for extent in extents]
    if (first := getattr(message, "first_block", None)) is not None:
        blocks.append((first, first + message.count))
    return {"message": message.__struct_config__.tag, "blocks": tuple(blocks)}
