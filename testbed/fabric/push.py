"""A short TCP push between namespaces, to measure what a link carries."""

import mmap
import select
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from testbed.errors import EnvironmentUnfit
from testbed.fabric.namespaces import joined

KV_TOS = 8 << 2  # CS1: the class that bulk is in
CHUNK_BYTES = 1 << 18
DISCARD_BYTES = 1 << 22
STALL_S = 5.0
SMALL_BELOW_BPS = 5e6
SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; Python 3.11 has no name for it
# Closing resets: nothing lingers, and the kernel remembers no round trip of it for later ones.
_RESET = b"\1\0\0\0\0\0\0\0"


class Place(NamedTuple):
    """An address, and the namespace that it is in."""

    netns_fd: int
    ip: str


class Flow(NamedTuple):
    """Who sends to whom, over what at most (payload bit/s, if known)."""

    sender: Place
    receiver: Place
    at_most_bps: float | None = None


def _socket(place: Place) -> socket.socket:
    with joined(place.netns_fd):
        sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, KV_TOS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.settimeout(STALL_S)
    return sock


def _connect(flow: Flow) -> tuple[socket.socket, socket.socket]:
    with _socket(flow.receiver) as listener:
        listener.bind((flow.receiver.ip, 0))
        listener.listen(1)
        sender = _socket(flow.sender)
        if flow.at_most_bps is not None and flow.at_most_bps < SMALL_BELOW_BPS:
            # The kernel makes packets of up to 1 ms of this; without, they have 64 KB, and one
            # takes 0.5 s at 1 Mbit/s. Twice the rate holds nothing back.
            pace = int(2 * flow.at_most_bps / 8)
            sender.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)
        try:
            sender.connect(listener.getsockname())
            receiver, _ = listener.accept()
        except BaseException:
            sender.close()
            raise
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return sender, receiver


def _send(sock: socket.socket) -> None:
    chunk = memoryview(bytes(CHUNK_BYTES))
    with sock:
        try:
            while True:
                sock.send(chunk)
        except OSError:
            return  # the receiver has seen enough, or nothing moved: it says so


def push(flows: Sequence[Flow], warm_s: float, window_s: float) -> float:
    """Send over all flows at once; payload bit/s that arrived, over one window.

    The window follows `warm_s` and begins and ends with an arrival, so no packet counts in part.
    The first counts and the last does not: a shaper that has sent a packet waits as long as that
    one takes before it sends the next.
    Raises EnvironmentUnfit if nothing arrives.
    """
    with ExitStack() as stack:
        pairs = [_connect(flow) for flow in flows]
        threads = [threading.Thread(target=_send, args=(sender,)) for sender, _ in pairs]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        receivers = [stack.enter_context(receiver) for _, receiver in pairs]
        return _count(receivers, warm_s, window_s)


def _count(receivers: list[socket.socket], warm_s: float, window_s: float) -> float:
    """Payload bit/s; what arrives is counted and thrown away uncopied."""
    discard = mmap.mmap(-1, DISCARD_BYTES)
    poll = select.poll()
    by_fd = {sock.fileno(): sock for sock in receivers}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    warm_until_s = time.monotonic() + warm_s
    start_s, total = 0.0, 0
    while True:
        ready = poll.poll(STALL_S * 1e3)
        if not ready:
            raise EnvironmentUnfit(
                f"nothing arrived for {STALL_S:g} s over a link that was to be measured; "
                "run `testbed doctor`"
            )
        received = sum(
            by_fd[fd].recv_into(discard, DISCARD_BYTES, socket.MSG_TRUNC) for fd, _ in ready
        )
        now_s = time.monotonic()
        if start_s and now_s - start_s >= window_s:
            return 8 * total / (now_s - start_s)
        if now_s >= warm_until_s:
            start_s = start_s or now_s
            total += received
