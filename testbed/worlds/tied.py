"""A lab without namespaces of its own, which still ends with whoever started it, children and all.

Where there is no PID namespace, three ropes hold a run's processes. They are one process group,
which the supervisor ends. The lifeline, a pipe whose only write end is the supervisor's, makes the
lab end the group when the supervisor dies in whatever way. On Linux each process also dies with
its parent, and the supervisor adopts and reaps orphans, so that it returns after the last is gone.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Any

from testbed.errors import EnvironmentUnfit
from testbed.fabric.private import LIFELINE_ENV

PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
END_S = 5.0  # for a process that was killed to be gone


class TiedProcess:
    """A lab that leads a process group; `close` ends the group and waits for its last member."""

    def __init__(self, popen: "subprocess.Popen[bytes]", lifeline_fd: int) -> None:
        self.popen = popen
        self._lifeline_fd = lifeline_fd

    def close(self) -> None:
        """End what still runs, at once: what the lab had to keep it has written by now."""
        if self._lifeline_fd < 0:
            return
        # Before the lab is reaped: its number stands for nothing else until then.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        os.close(self._lifeline_fd)
        self._lifeline_fd = -1
        self.popen.wait(END_S)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-self.popen.pid, 0)


@contextmanager
def tied(
    argv: list[str], *, stdout: int, stderr: IO[Any], env: dict[str, str]
) -> Iterator[TiedProcess]:
    """Run argv, which calls `hold_group` at its start, for the length of a with block."""
    with _adopting():
        process = _start(argv, stdout, stderr, env)
        try:
            yield process
        finally:
            process.close()


def _start(argv: list[str], stdout: int, stderr: IO[Any], env: dict[str, str]) -> TiedProcess:
    read_fd, write_fd = os.pipe()  # close-on-exec: only the supervisor keeps the write end
    try:
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**env, LIFELINE_ENV: str(read_fd)},
            pass_fds=(read_fd,),
            start_new_session=True,  # a group of its own; and Ctrl-C is the supervisor's
        )
    except BaseException:
        os.close(write_fd)
        raise
    finally:
        os.close(read_fd)
    return TiedProcess(popen, write_fd)


@contextmanager
def _adopting() -> Iterator[None]:
    """Processes below us whose parents die become our children: only so can they be waited for."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def hold_group() -> None:
    """To be called by the lab behind its first fork: end the group when the supervisor ends.

    Raises EnvironmentUnfit unless it was started by `tied`: the group would be somebody else's.
    """
    value = os.environ.pop(LIFELINE_ENV, None)
    if value is None or os.getpgrp() != os.getpid():
        raise EnvironmentUnfit(
            f"process {os.getpid()} leads no group with a lifeline; "
            "start a run with `testbed run --fabric loopback`"
        )
    fd = int(value)
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGTERM, _on_sigterm)
    threading.Thread(target=_watch, args=(fd,), name="lifeline", daemon=True).start()


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


def _watch(fd: int) -> None:
    os.read(fd, 1)  # nothing is ever written: it returns at the end of the pipe
    os.killpg(os.getpgrp(), signal.SIGKILL)
