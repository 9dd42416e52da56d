"""A program of the user's in a host of a live cluster, started from outside of it.

Run by path as `python -I enter.py HOW USER MNT PID NET FOLDER PROGRAM ARGUMENT...`: HOW is one of
`Manner`, the next four are inherited descriptors of namespaces. It needs the standard library
alone, and a single thread.
"""

import ctypes
import fcntl
import os
import select
import shutil
import signal
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
PR_SET_PDEATHSIG = 1
CANNOT, NOT_RUN, NOT_FOUND = 4, 126, 127  # the last two as shells have it
_libc = ctypes.CDLL(None, use_errno=True)


class Namespaces(NamedTuple):
    """Descriptors of the namespaces that make a host; closed at the end of a with block."""

    user: int
    mnt: int
    pid: int
    net: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for fd in self:
            os.close(fd)


class Manner(Enum):
    """How a program is tied to whoever starts it.

    JOB: a job of the caller's terminal. BOUND: it ends with the caller. SESSION: so it does, and
    its standard input is the terminal of a session of its own.
    """

    JOB = "job"
    BOUND = "bound"
    SESSION = "session"


def enter_command(
    namespaces: Namespaces, argv: Sequence[str], folder: Path, manner: Manner = Manner.BOUND
) -> list[str]:
    """The command that runs argv in there; pass it the descriptors (`pass_fds=namespaces`)."""
    fds = [str(fd) for fd in namespaces]
    return [sys.executable, "-I", __file__, manner.value, *fds, str(folder), *argv]


def _setns(fd: int, kind: int) -> None:
    if _libc.setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


def _same(fd: int, kind: str) -> bool:
    ours, theirs = os.stat(f"/proc/self/ns/{kind}"), os.fstat(fd)
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def join_all(namespaces: Namespaces) -> None:
    """Move this process into all four; OSError if refused, or if the network is our own.

    Its children are in the PID namespace, it is not.
    """
    if _same(namespaces.net, "net"):
        raise OSError("the host's network namespace is the one this was started in")
    if not _same(namespaces.user, "user"):  # under sudo the cluster has none of its own
        _setns(namespaces.user, CLONE_NEWUSER)
    _setns(namespaces.net, CLONE_NEWNET)
    if not _same(namespaces.net, "net"):
        raise OSError("setns had no effect")
    _setns(namespaces.pid, CLONE_NEWPID)
    _setns(namespaces.mnt, CLONE_NEWNS)


def run(manner: Manner, namespaces: Namespaces, folder: str, argv: Sequence[str]) -> int:
    """Run argv to its end; returns its exit code, 128 + n if signal n ended it."""
    caller = None if manner is Manner.JOB else os.pidfd_open(os.getppid())
    for fd in namespaces:
        os.set_inheritable(fd, False)
    try:
        join_all(namespaces)
        os.chdir(folder)
    except OSError as error:
        print(f"testbed: {argv[0]} was not started: {error}; see testbed doctor", file=sys.stderr)
        return CANNOT
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in a shell's background
    terminal = _terminal() if manner is Manner.JOB else None
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        _become(manner, terminal, argv, ignored)
    _pass_signals_on(pid)
    code = _wait_as_job(pid, terminal) if caller is None else _wait_beside(pid, caller)
    return 128 - code if code < 0 else code


def _terminal() -> int | None:
    """The controlling terminal, if this process may read from it now."""
    with suppress(OSError):
        fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        if os.tcgetpgrp(fd) == os.getpgrp():
            return fd
        os.close(fd)
    return None


def _pass_signals_on(pid: int) -> None:
    def pass_on(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, pass_on)


def _wait_as_job(pid: int, terminal: int | None) -> int:
    """Until its end; a stop (Ctrl-Z) is passed on to the caller's shell, and so is going on."""
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if terminal is not None:
            os.tcsetpgrp(terminal, os.getpgrp())
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        os.kill(os.getpid(), signal.SIGSTOP)
        if terminal is not None and os.tcgetpgrp(terminal) == os.getpgrp():
            os.tcsetpgrp(terminal, pid)
        os.killpg(pid, signal.SIGCONT)


def _wait_beside(pid: int, caller: int) -> int:
    """Until its end, which the caller's brings about."""
    ended, _, _ = select.select([os.pidfd_open(pid), caller], [], [])
    if caller in ended:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _become(manner: Manner, terminal: int | None, argv: Sequence[str], ignored: bool) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if manner is Manner.SESSION:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    elif manner is Manner.JOB:
        # A process group of its own: a group whose leader is outside has no number in here, which
        # shells that put their group in front do not expect.
        os.setpgid(0, 0)
        if terminal is not None:
            os.tcsetpgrp(terminal, os.getpgrp())
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        # A folder of PATH that cannot be read answers "permission denied" for what is nowhere.
        missing = "/" not in argv[0] and shutil.which(argv[0]) is None
        why = "no such program" if missing else error.strerror
        print(f"testbed: {argv[0]}: {why}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(NOT_FOUND if missing or isinstance(error, FileNotFoundError) else NOT_RUN)


if __name__ == "__main__":
    how, *fds, place = sys.argv[1:7]
    sys.exit(run(Manner(how), Namespaces(*map(int, fds)), place, sys.argv[7:]))
