"""Network namespaces without root, held by file descriptor and never by PID or name."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed.errors import EnvironmentUnfit
from testbed.fabric.privilege import lock_machine

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
OUTER_NETNS_ENV = "DUALPATH_OUTER_NETNS"
# The kernel shows these settings in the machine's first network namespace and in no other.
FIRST_NETNS_ONLY = (
    Path("/proc/sys/net/core/dev_weight"),
    Path("/proc/sys/net/core/netdev_max_backlog"),
)
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


def own_inodes() -> set[int]:
    """Those of the caller's network, mount and PID namespaces."""
    return {os.stat(f"/proc/thread-self/ns/{kind}").st_ino for kind in ("net", "mnt", "pid")}


def outside() -> str:
    """What a program in private namespaces must never be in, for its environment.

    The caller's own namespaces, and the network of the machine's PID 1 if that may be known.
    """
    inodes = own_inodes()
    with suppress(OSError):  # an ordinary user may not look at PID 1
        inodes.add(os.stat("/proc/1/ns/net").st_ino)
    return ",".join(map(str, sorted(inodes)))


def _told_outside() -> set[int]:
    told = os.environ.get(OUTER_NETNS_ENV, "")
    return {int(inode) for inode in told.split(",") if inode.isdigit()}


def require_not_the_machine() -> None:
    """Raise EnvironmentUnfit in the machine's network namespace, or in that of who started us.

    Whatever the environment says: the kernel itself tells the machine's first namespace.
    """
    if all(path.exists() for path in FIRST_NETNS_ONLY) or current_inode() in _told_outside():
        raise EnvironmentUnfit(
            f"process {os.getpid()} is in the machine's own network namespace, which is never "
            "touched; start it through testbed.fabric.private.start_private"
        )


def join(netns_fd: int) -> None:
    """Move the calling thread into a namespace for good: for a freshly forked host process.

    Raises EnvironmentUnfit if the fd is the namespace that the thread is in already, or one
    outside the lab: the caller then holds the wrong fd, and would act on a network that is not
    the host's.
    """
    if os.fstat(netns_fd).st_ino in _told_outside():
        raise EnvironmentUnfit(
            f"network namespace fd {netns_fd} is outside the lab; "
            "join a host's namespace, taken from Fabric.hosts"
        )
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

    Raises EnvironmentUnfit; nothing was touched. Then locks the machine's settings (see
    privilege.py) and turns IPv6 off in the lab's own namespace.
    """
    names = sorted(name for _, name in socket.if_nameindex())
    told = _told_outside()
    if os.getpid() != 1 or os.geteuid() != 0 or not told or own_inodes() & told:
        raise EnvironmentUnfit(
            f"process {os.getpid()} is not PID 1 of private namespaces; "
            "start it through testbed.fabric.private.start_private"
        )
    require_not_the_machine()
    if names != ["lo"]:
        raise EnvironmentUnfit(
            f"the network namespace holds {', '.join(names)} where only lo should be; "
            "build one fabric per private namespace"
        )
    if " shared:" in Path("/proc/self/mountinfo").read_text():
        raise EnvironmentUnfit(
            "a mount made here would show outside; "
            "start this program through testbed.fabric.private.start_private"
        )
    lock_machine()
    _disable_ipv6()
