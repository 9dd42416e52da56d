"""Lines to another process and back, each within a deadline of real seconds."""

import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed.errors import InputError
from testbed.processes import end_group

MOST_BYTES = 1 << 16
LONGEST_LINE_BYTES = 1 << 26
LONGEST_WORDS = 200
TAIL_BYTES = 1 << 16  # of what a process said, where its last words are looked for
LEAVE_S = 2.0  # for a process to end by itself once its input has ended


class ChannelError(Exception):
    """The other end is gone or silent; the message says how, in words that follow "it"."""


class Channel:
    """Two file descriptors: one to write lines to, one to read lines from.

    `last_words` is asked when the other end has failed, and says what is known of that.
    """

    def __init__(
        self,
        write_fd: int,
        read_fd: int,
        deadline_s: float,
        last_words: Callable[[], str] = lambda: "",
    ) -> None:
        self._write_fd, self._read_fd = write_fd, read_fd
        self._deadline_s = deadline_s
        self.last_words = last_words
        self._rest = b""
        self._asked = False
        for fd in (write_fd, read_fd):
            os.set_blocking(fd, False)

    def exchange(self, line: bytes) -> bytes:
        """Send a line and return the next one, without its newline; raises ChannelError."""
        if self._asked and (self._rest or self._received()):
            raise ChannelError("said more than one line for the last event")
        self._asked = True
        end_s = time.monotonic() + self._deadline_s
        self._send(line, end_s)
        parts: list[bytes] = []
        length = 0
        while b"\n" not in self._rest:
            parts.append(self._rest)
            length += len(self._rest)
            if length > LONGEST_LINE_BYTES:
                raise ChannelError(f"said a line of more than {LONGEST_LINE_BYTES >> 20} MiB")
            self._await(self._read_fd, select.POLLIN, end_s)
            self._rest = self._received()
        head, _, self._rest = self._rest.partition(b"\n")
        return b"".join([*parts, head])

    def _send(self, line: bytes, end_s: float) -> None:
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self._write_fd, left) :]
            except BlockingIOError:
                self._await(self._write_fd, select.POLLOUT, end_s)
            except OSError as error:
                raise ChannelError("has ended") from error

    def _received(self) -> bytes:
        try:
            part = os.read(self._read_fd, MOST_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            part = b""
        if not part:
            raise ChannelError("has ended")
        return part

    def _await(self, fd: int, what: int, end_s: float) -> None:
        poll = select.poll()
        poll.register(fd, what)
        with _interruptible():
            if not poll.poll(max(0.0, end_s - time.monotonic()) * 1e3):
                raise ChannelError(f"did not answer within {self._deadline_s:g} s")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the wait; a virtual world would else only look at it afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def spawned(command: str, words_file: Path, deadline_s: float) -> Iterator[Channel]:
    """A command with a channel to its standard input and output, ended with the block.

    What it says on standard error goes to `words_file`.
    """
    process = _started(command, words_file)
    assert process.stdin is not None and process.stdout is not None
    fds = process.stdin.fileno(), process.stdout.fileno()
    try:
        yield Channel(*fds, deadline_s, lambda: _last_words(process, words_file))
        _leave(process)
    finally:
        end_group(process)
        process.stdin.close()
        process.stdout.close()


def _started(command: str, words_file: Path) -> subprocess.Popen[bytes]:
    try:
        with words_file.open("ab") as said:
            return subprocess.Popen(
                command_words(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is ours, and whatever it starts ends with it
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
    except OSError as error:
        raise InputError(
            f"--scheduler-cmd {command!r}: {error.strerror}; a script begins with #! and its "
            "interpreter, or is named behind it"
        ) from error


def _leave(process: subprocess.Popen[bytes]) -> None:
    """Let it end by itself now that its input does."""
    assert process.stdin is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(LEAVE_S)


def _last_words(process: subprocess.Popen[bytes], words_file: Path) -> str:
    """Its exit code, if it does end, and the end of what it said on standard error."""
    _leave(process)
    code = "" if process.returncode is None else f"; exit code {process.returncode}"
    with words_file.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        said = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    return code + (f"; the last that it said: {last[:LONGEST_WORDS]}" if last else "")


def _die_with_parent() -> None:
    from testbed.fabric.private import die_with_parent

    die_with_parent()


@contextmanager
def connected(path: Path, deadline_s: float) -> Iterator[Channel]:
    """A channel to whoever listens on a Unix socket; raises InputError if nobody does."""
    import socket  # here, because a virtual world needs it for this alone

    with socket.socket(socket.AF_UNIX) as end:
        try:
            end.connect(str(path))
        except OSError as error:
            raise InputError(
                f"--scheduler unix:{path}: {error.strerror or error}; start a scheduler that "
                "listens there"
            ) from error
        yield Channel(end.fileno(), end.fileno(), deadline_s)


def command_words(command: str) -> list[str]:
    """The words of a command that can be started; raises InputError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--scheduler-cmd {command!r}: {error}; close what it opens") from error
    if not words or shutil.which(words[0]) is None:
        raise InputError(
            f"--scheduler-cmd {command!r}: there is no program {words[0] if words else ''!r} that "
            "can be run; give its path, and make it executable"
        )
    return words
