"""TCP reassembly: segments of a capture, in whatever order and number, into each flow's bytes."""

from collections.abc import Callable
from typing import NamedTuple

from testbed.capture.parser import FrameParser
from testbed.capture.records import FlowAccount, Frame
from testbed.capture.segments import SYN, Seen, Tcp

PENDING_LIMIT_BYTES = 8 << 20  # as much as a window: a hole older than that was never captured
_HALF, _WHOLE = 1 << 31, 1 << 32


class _Piece(NamedTuple):
    """Bytes of the stream from `start` on; the file has the first of them, `data`."""

    start: int
    end: int
    data: memoryview
    mark: int
    at_s: float


class Stream:
    """One direction of a connection; places in it are counted without wrapping."""

    def __init__(
        self, account: FlowAccount, emit: Callable[[Frame], None], *, parse: bool = True
    ) -> None:
        self.account = account
        self._emit = emit
        self._parse = parse
        self._parser: FrameParser | None = None
        self._first: int | None = None
        self._next: int | None = None
        self._pending: list[_Piece] = []
        self._pending_bytes = 0

    def add(self, seen: Seen, tcp: Tcp) -> None:
        """Take a segment; frames that it completes are emitted."""
        account, mark = self.account, seen.dscp
        account.packets_by_dscp[mark] = account.packets_by_dscp.get(mark, 0) + seen.wire_packets
        start = self._place(tcp.sequence)
        if tcp.flags & SYN:
            start += 1
            if start % _WHOLE != self._first:  # or the same one once more
                self._first = start % _WHOLE
                self._restart(start)
        elif self._next is None:
            if not tcp.payload_bytes:
                return  # no data yet: where the stream is joined is told by the first of it
            self._restart(start, at_start=False)
        if tcp.payload_bytes:
            end = start + tcp.payload_bytes
            self._put(_Piece(start, end, tcp.data, mark, seen.at_ns / 1e9))

    def acknowledged(self, number: int) -> None:
        """The peer has all before this: what we still wait for will not be seen any more."""
        if self._pending and self._next is not None:
            self._give_up_below(min(self._place(number), self._pending[-1].end))

    def end(self) -> None:
        """No packet comes any more."""
        if self._pending:
            self._give_up_below(self._pending[-1].end)
        self._close_parser()

    def _restart(self, start: int, *, at_start: bool = True) -> None:
        """A connection begins (the pair of ports may have been used before), or is joined."""
        self.end()
        self._pending.clear()
        self._pending_bytes = 0
        self._next = start
        if self._parse:
            self._parser = FrameParser(
                self.account.flow, self.account.outgoing, self._emit, at_start=at_start
            )

    def _close_parser(self) -> None:
        if self._parser is not None:
            self._parser.end()
            self.account.frame_bytes += self._parser.frame_bytes
            self.account.unparsed_bytes += self._parser.unparsed_bytes
            self._parser = None

    def _place(self, number: int) -> int:
        """A 32-bit sequence number as the place nearest to where we are."""
        if self._next is None:
            return number
        return self._next + (number - self._next + _HALF) % _WHOLE - _HALF

    def _put(self, piece: _Piece) -> None:
        assert self._next is not None
        if piece.start <= self._next:
            self._take(piece)
            self._drain()
            return
        at = len(self._pending)
        while at and self._pending[at - 1].start > piece.start:
            at -= 1
        self._pending.insert(at, piece)
        self._pending_bytes += piece.end - piece.start
        if self._pending_bytes > PENDING_LIMIT_BYTES:
            self._give_up_below(self._pending[0].start)

    def _drain(self) -> None:
        done = 0
        for piece in self._pending:
            assert self._next is not None
            if piece.start > self._next:
                break
            self._take(piece)
            self._pending_bytes -= piece.end - piece.start
            done += 1
        del self._pending[:done]

    def _give_up_below(self, place: int) -> None:
        """Bytes before this place that were not seen are missing for good."""
        while self._next is not None:
            until = min([place, *(piece.start for piece in self._pending[:1])])
            if until <= self._next:
                return
            self.account.missing_bytes += until - self._next
            if self._parser is not None:
                self._parser.skip(until - self._next)
            self._next = until
            self._drain()

    def _take(self, piece: _Piece) -> None:
        """Pass on what is new of a piece that starts at or before our place."""
        assert self._next is not None
        old = min(self._next, piece.end) - piece.start
        account = self.account
        account.retransmitted_bytes += old
        new = piece.end - piece.start - old
        if not new:
            return
        self._next = piece.end
        account.payload_bytes += new
        account.payload_by_dscp[piece.mark] = account.payload_by_dscp.get(piece.mark, 0) + new
        if self._parser is not None:
            data = piece.data[old:]
            if len(data):
                self._parser.feed(data, piece.mark, piece.at_s)
            if len(data) < new:
                self._parser.skip(new - len(data))
