"""A program as PID 1 of private namespaces, which end with whoever started it.

Two ropes hold it. `unshare --kill-child` ends PID 1 when unshare dies, and the end of PID 1
takes every process, namespace and link with it. The lifeline, a pipe whose only write end is the
supervisor's, ends PID 1 when the supervisor dies in whatever way.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import IO, Any

from testbed.errors import EnvironmentUnfit
from testbed.fabric.namespaces import OUTER_NETNS_ENV, outside
from testbed.fabric.privilege import PR_SET_PDEATHSIG, end_with_sudo, mode, unshare_options

LIFELINE_ENV = "DUALPATH_LIFELINE_FD"
TERMINATE, DETACH = b"T", b"D"
UMASK = 0o022  # at the least: nobody else writes into what root leaves


def private_command(argv: list[str]) -> list[str]:
    """The command that runs argv as PID 1, uid 0, of new net, mount and PID namespaces.

    And of a user namespace, unless `privilege.mode` says "sudo". Raises EnvironmentUnfit without
    util-linux.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        raise EnvironmentUnfit("the command unshare is missing; install the package util-linux")
    # The program compares these inodes with its own before it touches any link.
    outer = f"{OUTER_NETNS_ENV}={outside()}"
    return [unshare, *unshare_options(mode()), "--", "/usr/bin/env", outer, *argv]


def refused(last_words: str) -> bool:
    """Whether a private program's last words are those of an unshare that was refused.

    An unshare whose child was killed complains as well, of signals.
    """
    return "unshare" in last_words and "sigprocmask" not in last_words


class PrivateProcess:
    """A running private program; `popen` is its unshare, `close` ends everything."""

    def __init__(self, popen: subprocess.Popen[bytes], lifeline_fd: int) -> None:
        self.popen = popen
        self._lifeline_fd = lifeline_fd
        self._detached = False

    def terminate(self) -> None:
        """Ask PID 1 to end in good order: the lifeline carries one byte, which is SIGTERM.

        unshare itself ignores SIGTERM, and a bare PID is no safe address for PID 1.
        """
        os.write(self._lifeline_fd, TERMINATE)

    def detach(self) -> None:
        """Let the program live on when the supervisor ends; nothing here ends it any more."""
        os.write(self._lifeline_fd, DETACH)
        self._detached = True

    def close(self, timeout_s: float = 5.0) -> int:
        """End what still runs and return the exit code (negative: unshare was killed).

        A detached program goes on, and the code is 0.
        """
        if self._lifeline_fd >= 0:
            os.close(self._lifeline_fd)
            self._lifeline_fd = -1
        if self._detached:
            self.popen.returncode = 0  # nobody waits for it here any more
            return 0
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait(timeout_s)

    def __enter__(self) -> "PrivateProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_private(
    argv: list[str],
    *,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    env: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
    foreground: bool = False,
) -> PrivateProcess:
    """Start argv through `private_command`, with a lifeline; argv calls `hold_lifeline` first.

    In the foreground it keeps the terminal, to read from and to be interrupted by; the
    supervisor then leaves Ctrl-C to it. No other open file of the supervisor's goes with it.
    """
    end_with_sudo()
    read_fd, write_fd = os.pipe()  # close-on-exec: only the supervisor keeps the write end
    try:
        popen = subprocess.Popen(
            private_command(argv),
            stdin=None if foreground else subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**(os.environ if env is None else env), LIFELINE_ENV: str(read_fd)},
            pass_fds=(read_fd, *pass_fds),
            # Ctrl-C is the supervisor's, which then ends this in good order.
            start_new_session=not foreground,
            umask=_umask(),
        )
    except BaseException:
        os.close(write_fd)
        raise
    finally:
        os.close(read_fd)
    return PrivateProcess(popen, write_fd)


def _umask() -> int:
    current = os.umask(UMASK)
    os.umask(current)
    return current | UMASK


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


def _watch(fd: int) -> None:
    while said := os.read(fd, 1):
        if said == DETACH:
            return
        os.kill(os.getpid(), signal.SIGTERM)
    os._exit(128 + signal.SIGKILL)


def hold_lifeline() -> None:
    """To be called first by the private program: end with the supervisor, and on SIGTERM.

    The kernel spares PID 1 every signal without a handler, so SIGTERM gets one that raises
    SystemExit(143). Raises EnvironmentUnfit if the program was not given a lifeline.
    """
    value = os.environ.pop(LIFELINE_ENV, None)
    if value is None or os.getpid() != 1:
        raise EnvironmentUnfit(
            f"process {os.getpid()} was not started with a lifeline; "
            "start it through testbed.fabric.private.start_private"
        )
    fd = int(value)
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGTERM, _on_sigterm)
    threading.Thread(target=_watch, args=(fd,), name="lifeline", daemon=True).start()


def die_with_parent() -> None:
    """To be called by a host process after its fork: SIGKILL when the forking thread ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise EnvironmentUnfit("prctl(PR_SET_PDEATHSIG) was refused; run `testbed doctor`")
