"""Acknowledgements on their way out: together, for each that leaves alone wakes the peer."""

from asyncio import AbstractEventLoop
from collections.abc import Callable

# They leave at the end of the loop's turn, and before it once they stand for so much payload: a
# peer that hears nothing sends nothing.
PAID_AT_BYTES = 2 << 20


class Owed:
    """What one connection has still to acknowledge; `send` gets packed frames and their number."""

    def __init__(self, loop: AbstractEventLoop, send: Callable[[bytes, int], None]) -> None:
        self._loop = loop
        self._send = send
        self._acks: list[bytes] = []
        self._payload_bytes = 0  # that they stand for

    def add(self, ack: bytes, payload_bytes: int) -> None:
        """Send this soon."""
        if not self._acks:
            self._loop.call_soon(self.pay)
        self._acks.append(ack)
        self._payload_bytes += payload_bytes
        if self._payload_bytes >= PAID_AT_BYTES:
            self.pay()

    def pay(self) -> None:
        """Send what is owed now."""
        acks, self._acks, self._payload_bytes = self._acks, [], 0
        if acks:
            self._send(b"".join(acks), len(acks))
