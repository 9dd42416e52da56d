"""Host processes by fork from one server that has torch and the engines loaded already.

The lab talks to the server over one SEQPACKET socket: a start order carries the host's network
namespace and its control socket as file descriptors; what comes back are exits.
"""

import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from testbed.errors import RunFailed
from testbed.fabric.namespaces import join
from testbed.fabric.private import die_with_parent

MAX_ORDER_BYTES = 1 << 16
# Other systems than Linux keep the boundaries of messages in datagrams only.
KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM


class StartOrder(msgspec.Struct, frozen=True):
    """Start the process whose plan lies in `start_file`; its output goes to `log_file`."""

    host: str
    start_file: str
    log_file: str


class Exited(msgspec.Struct, frozen=True):
    """A host process ended; `code` is negative for a signal."""

    host: str
    code: int


class ForkServer:
    """The lab's side: start hosts, hear of their ends."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, KIND)
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            self.socket.close()
            _serve(theirs, parent)
        theirs.close()
        self.pid = pid

    def start(self, order: StartOrder, netns_fd: int | None) -> socket.socket:
        """Fork a process, into a host's namespace if one is given; returns its control socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            fds = [theirs.fileno()] if netns_fd is None else [theirs.fileno(), netns_fd]
            socket.send_fds(self.socket, [msgspec.msgpack.encode(order)], fds)
        return ours

    def exited(self) -> Exited:
        """The next exit that the server reports."""
        message = self.socket.recv(MAX_ORDER_BYTES)
        if not message:
            raise RunFailed("the forkserver ended; its output is in the run's lab.log")
        return msgspec.msgpack.decode(message, type=Exited)


def _serve(lab: socket.socket, parent: int) -> None:
    """The server's life: load what hosts need, then fork on order and reap."""
    _end_with(parent)
    os.dup2(2, 1)  # the lab's words end with the lab
    from testbed.worlds.hosts import main  # loads torch, once for all hosts

    gc.collect()
    gc.freeze()
    children: dict[int, str] = {}
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    while True:
        readable, _, _ = select.select([lab, wakeup], [], [])
        if wakeup in readable:
            wakeup.recv(64)
            _reap(lab, children)
        if lab in readable:
            message, fds, _, _ = socket.recv_fds(lab, MAX_ORDER_BYTES, 2)
            if not message:
                os._exit(0)
            order = msgspec.msgpack.decode(message, type=StartOrder)
            server, pid = os.getpid(), os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                lab.close()
                _become_host(order, fds, main, server)
            children[pid] = order.host
            for fd in fds:
                os.close(fd)


def _reap(lab: socket.socket, children: dict[int, str]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        lab.send(msgspec.msgpack.encode(Exited(children.pop(pid), code)))


def _end_with(parent: int) -> None:
    """End when the process that forked us does, were it before the kernel was asked to see to it.

    Without a PID namespace nothing else would.
    """
    if sys.platform == "linux":
        die_with_parent()
    if os.getppid() != parent:
        os._exit(1)


def _become_host(
    order: StartOrder, fds: list[int], main: Callable[[Path, socket.socket], None], server: int
) -> None:
    code = 1
    try:
        log = os.open(order.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _end_with(server)
        for netns_fd in fds[1:]:
            join(netns_fd)
        main(Path(order.start_file), socket.socket(fileno=fds[0]))
        code = 0
    except BaseException as error:
        traceback.print_exc()
        for cause in _leaves(error):
            print(f"{type(cause).__name__}: {cause}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors inside groups of groups: the log's last line says what went wrong."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]
