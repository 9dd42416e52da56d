"""A process that does nothing but sleep: how late it wakes up says how late anybody may.

It is a fork of the lab and no thread of it: the lab's own looks would delay a thread.
"""

import os
import select
import signal
import socket
import time

import msgspec

from testbed.fabric.private import die_with_parent
from testbed.worlds.samples import Sleeps

STEP_S = 0.001
IN_A_ROW = 50
PERIOD_S = 0.23  # no multiple of the lab's own period: they may not keep meeting


class Sleeper:
    """The lab's side: begin, and at the end what was seen."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _live(theirs)
        theirs.close()

    def begin(self) -> None:
        """Sleep from now on."""
        self._socket.sendall(b"b")

    def end(self) -> list[Sleeps]:
        """Stop sleeping; what it saw, at least one row if it ever began."""
        self._socket.shutdown(socket.SHUT_WR)
        with self._socket, self._socket.makefile("rb") as said:
            found = said.read()
        os.waitpid(self._pid, 0)
        return msgspec.msgpack.decode(found, type=list[Sleeps]) if found else []


def _live(lab: socket.socket) -> None:
    try:
        die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        lab.sendall(msgspec.msgpack.encode(_rows(lab) if lab.recv(1) else []))
    finally:
        os._exit(0)


def _rows(lab: socket.socket) -> list[Sleeps]:
    begin_s = time.monotonic()
    found = [row()]
    while True:
        begin_s = max(begin_s + PERIOD_S, time.monotonic())
        if select.select([lab], [], [], max(0.0, begin_s - time.monotonic()))[0]:
            return found
        found.append(row())


def row(count: int = IN_A_ROW, step_s: float = STEP_S) -> Sleeps:
    """So many sleeps with due times in a row: a stall is late for each that it covers."""
    begin_s = time.monotonic()
    late_us = []
    for number in range(1, count + 1):
        due_s = begin_s + number * step_s
        if (left_s := due_s - time.monotonic()) > 0:
            time.sleep(left_s)
        late_us.append(max(0, round((time.monotonic() - due_s) * 1e6)))
    return Sleeps(begin_s, tuple(late_us))
