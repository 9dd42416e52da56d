"""Network namespaces without root, held by file descriptor and never by PID or name."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import EnvironmentUnfit

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
OUTER_NETNS_ENV = "DUALPATH_OUTER_NETNS"
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: int) -> None:
    if getattr(_libc, name)(*args) != 0:
        errno = ctypes.get_errno()
        raise EnvironmentUnfit(
            f"{name} of a namespace was refused ({os.strerror(errno)}); "
            "run `testbed doctor` to see which kernel feature is missing"
        )


def open_current() -> int:
    """A close-on-exec fd of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def current_inode() -> int:
    """The inode that identifies the calling thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def join(netns_fd: int) -> None:
    """Move the calling thread into a namespace for good: for a freshly forked host process.

    Raises EnvironmentUnfit if the fd is the namespace that the thread is in already: the caller
    then holds the wrong fd, and would go on to act on a network that is not the host's.
    """
    if os.fstat(netns_fd).st_ino == current_inode():
        raise EnvironmentUnfit(
            f"network namespace fd {netns_fd} is the one this process started in; "
            "join a host's namespace, taken from Fabric.hosts"
        )
    _call("setns", netns_fd, CLONE_NEWNET)


@contextmanager
def joined(netns_fd: int) -> Iterator[None]:
    """Be in a namespace for the length of a with block; the calling thread only.

    Sockets opened inside belong to that namespace for as long as they live.
    """
    home = open_current()
    try:
        join(netns_fd)
        try:
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)


def show_own_nics() -> None:
    """Have /sys/class/net list the interfaces of the namespace that the calling process is in.

    For a freshly forked host process that becomes a program which looks there. Raises
    EnvironmentUnfit.
    """
    _call("unshare", CLONE_NEWNS)
    if _libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None) != 0:
        errno = ctypes.get_errno()
        raise EnvironmentUnfit(
            f"a host could not mount its own /sys ({os.strerror(errno)}); "
            "start the testbed where /sys is whole, outside a container"
        )


def _disable_ipv6() -> None:
    # Neighbour and multicast chatter would show up in the counters of idle links.
    for scope in ("all", "default"):
        path = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
        if path.exists():
            path.write_text("1")


def create() -> int:
    """Make an empty network namespace, IPv6 off, and return its fd; the caller stays where it is.

    Raises EnvironmentUnfit if the kernel refuses.
    """
    home = open_current()
    try:
        _call("unshare", CLONE_NEWNET)
        try:
            fd = open_current()
            if os.fstat(fd).st_ino == os.fstat(home).st_ino:
                raise EnvironmentUnfit(
                    "unshare made no new network namespace; run `testbed doctor`"
                )
            _disable_ipv6()
        finally:
            _call("setns", home, CLONE_NEWNET)
    finally:
        os.close(home)
    return fd


def require_private() -> None:
    """Refuse to go on unless we are PID 1 of private namespaces with an empty network.

    Raises EnvironmentUnfit; nothing was touched. Turns IPv6 off in the lab's own namespace.
    """
    names = sorted(name for _, name in socket.if_nameindex())
    outer = os.environ.get(OUTER_NETNS_ENV)
    if os.getpid() != 1 or os.geteuid() != 0 or outer is None or int(outer) == current_inode():
        raise EnvironmentUnfit(
            f"process {os.getpid()} is not PID 1 of private namespaces; "
            "start it through testbed.fabric.private.start_private"
        )
    if names != ["lo"]:
        raise EnvironmentUnfit(
            f"the network namespace holds {', '.join(names)} where only lo should be; "
            "build one fabric per private namespace"
        )
    _disable_ipv6()
