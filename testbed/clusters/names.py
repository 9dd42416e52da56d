"""Names of live clusters: abstract Unix sockets, which the kernel forgets with their holders.

Nothing lies on disk that a kill could leave behind, and no two clusters of a user can share a name
(unix(7): abstract addresses vanish when all descriptors are closed; a second bind is refused).
"""

import errno
import os
import re
import socket
from contextlib import suppress
from pathlib import Path

from testbed.errors import EnvironmentUnfit, InputError
from testbed.yamlfile import nearest

PREFIX = "dualpath-testbed"
PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{0,59}")


def address(name: str) -> str:
    """The abstract address of this user's cluster of that name."""
    return f"\0{PREFIX}/{os.getuid()}/{name}"


def as_name(text: str) -> str:
    """The nearest valid name to a file's name."""
    return re.sub(r"[^a-z0-9.-]+", "-", text.lower()).strip("-.")[:60] or "cluster"


def claim(name: str) -> socket.socket:
    """Take a name; returns the listening socket that holds it.

    Raises InputError for a bad name and for one that is taken.
    """
    if not PATTERN.fullmatch(name):
        raise InputError(
            f"cluster name {name!r}: use small letters, digits, dots and dashes, at most 60"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(address(name))
        listener.listen(64)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"cluster {name!r} is up already: testbed down {name}, or choose another --name"
            ) from error
        raise EnvironmentUnfit(f"no control socket for cluster {name!r}: {error}") from error
    return listener


def claim_free(name: str) -> tuple[str, socket.socket]:
    """The name, or the first of name-2, name-3, ... that is free, and the socket that holds it."""
    base, number = as_name(name), 1
    while True:
        candidate = base if number == 1 else f"{base[:55]}-{number}"
        try:
            return candidate, claim(candidate)
        except InputError:
            number += 1


def name_of(listener: socket.socket) -> str:
    """The name that a listening socket holds."""
    return str(listener.getsockname().decode().rpartition("/")[2])


def live() -> list[str]:
    """This user's clusters, by name."""
    return sorted(_by_user().get(os.getuid(), ()))


def sockets(name: str) -> set[str]:
    """Inodes of the sockets that bear a cluster's name now: who takes it anew has another one."""
    return {
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()
        if line.split()[-1] == "@" + address(name)[1:]
    }


def holders(inodes: set[str]) -> list[int]:
    """A pidfd of each process that holds a cluster's socket: its first process and its unshare.

    To be closed by the caller. They are found by the socket itself, and by no name of a program.
    """
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # another user's, or gone meanwhile
                pidfd = os.pidfd_open(int(process.name))
                if any(_socket(fd) in inodes for fd in (process / "fd").iterdir()):
                    found.append(pidfd)
                else:
                    os.close(pidfd)
    return found


def _socket(fd: Path) -> str:
    """The inode of an open file that is a socket."""
    target = os.readlink(fd)
    return target[8:-1] if target.startswith("socket:[") else ""


def _by_user() -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for line in Path("/proc/net/unix").read_text().splitlines():
        prefix, *rest = line.split()[-1].split("/")
        if prefix == f"@{PREFIX}" and len(rest) == 2 and rest[0].isdigit():
            found.setdefault(int(rest[0]), set()).add(rest[1])
    return found


def _of_others(name: str | None) -> str:
    """Who else has that cluster up, or any without a name, and how to reach it; else empty.

    A user's clusters are not root's, and the other way round.
    """
    having = sorted(
        uid
        for uid, theirs in _by_user().items()
        if uid != os.getuid() and (name is None or name in theirs)
    )
    what, it = ("clusters", "them") if name is None else (f"{name!r}", "it")
    if 0 in having:
        return f"root has {what} up: use sudo to reach {it}"
    if having:
        users = ", ".join(f"user {uid}" for uid in having)
        return f"{users} has {what} up: reach {it} as that user, without sudo"
    return ""


def find(name: str | None) -> str:
    """The live cluster that is meant: the named one, or the only one; else InputError."""
    known = live()
    if name is not None:
        if name not in known:
            near = nearest(name, known, "cluster") if known else _of_others(None)
            hint = _of_others(name) or near or "none is up; see testbed up --help"
            raise InputError(f"you have no cluster {name!r} up; {hint}")
        return name
    if not known:
        hint = _of_others(None) or "bring one up with testbed up EXPERIMENT"
        raise InputError(f"no cluster is up; {hint}")
    if len(known) > 1:
        raise InputError(f"several clusters are up: {', '.join(known)}; say which with --cluster")
    return known[0]
