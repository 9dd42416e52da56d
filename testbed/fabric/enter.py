"""A program of the user's in a host of a live cluster, started from outside of it.

Run by path as `python -I enter.py USER MNT PID NET FOLDER PROGRAM ARGUMENT...`: the first four are
inherited descriptors of namespaces. It needs the standard library alone, and a single thread.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
PR_SET_PDEATHSIG = 1
CANNOT, NOT_FOUND = 4, 127
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


def enter_command(namespaces: Namespaces, argv: Sequence[str], folder: Path) -> list[str]:
    """The command that runs argv in there; pass it the descriptors (`pass_fds=namespaces`)."""
    fds = [str(fd) for fd in namespaces]
    return [sys.executable, "-I", __file__, *fds, str(folder), *argv]


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


def run(namespaces: Namespaces, folder: str, argv: Sequence[str]) -> int:
    """Run argv to its end; returns its exit code, 128 + n if signal n ended it."""
    for fd in namespaces:
        os.set_inheritable(fd, False)
    try:
        join_all(namespaces)
        os.chdir(folder)
    except OSError as error:
        print(f"testbed: {argv[0]} was not started: {error}; see testbed doctor", file=sys.stderr)
        return CANNOT
    # Ctrl-C and Ctrl-\ reach the program by the terminal; we stay to tell how it ended.
    heeded = {number: signal.signal(number, signal.SIG_IGN) for number in (2, 3)}
    pid = os.fork()
    if pid == 0:
        _become(argv, heeded)

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, pass_on)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code


def _become(argv: Sequence[str], heeded: Mapping[int, object]) -> None:
    for number, handler in heeded.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, signal.SIG_DFL)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        print(f"testbed: {argv[0]}: {error.strerror}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(NOT_FOUND)


if __name__ == "__main__":
    sys.exit(run(Namespaces(*map(int, sys.argv[1:5])), sys.argv[5], sys.argv[6:]))
