"""Run a program as a plain container would: no capability, no namespace, no netlink, no mount.

`python unprivileged.py PROGRAM ...` drops every capability, has the kernel refuse the system calls
that make or enter namespaces, mount, or open netlink sockets (seccomp, inherited by every child),
and then becomes PROGRAM.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# By machine: AUDIT_ARCH, then the numbers of these calls.
NAMES = ("clone", "clone3", "unshare", "setns", "mount", "socket")
MACHINES = {
    "x86_64": (0xC000003E, (56, 435, 272, 308, 165, 41)),
    "aarch64": (0xC00000B7, (220, 435, 97, 268, 40, 198)),
}
PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 24, 22, 38
SECCOMP_MODE_FILTER = 2
CLONE_NEW_ANY = 0x7E020080  # cgroup, uts, ipc, user, pid, net, mount, time
AF_NETLINK = 16
LOAD, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # classic BPF
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NUMBER, ARCH, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def available() -> bool:
    """Whether this script knows the machine's system calls."""
    return sys.platform == "linux" and platform.machine() in MACHINES


def program() -> bytes:
    """The filter: struct sock_filter, eight bytes each."""
    arch, numbers = MACHINES[platform.machine()]
    call = dict(zip(NAMES, numbers, strict=True))
    lines = [
        (LOAD, 0, 0, ARCH), (JUMP_EQUAL, 1, 0, arch), (RETURN, 0, 0, REFUSE | errno.EPERM),
        (LOAD, 0, 0, NUMBER),
        # libraries fall back to clone, whose flags can be looked at
        (JUMP_EQUAL, 0, 1, call["clone3"]), (RETURN, 0, 0, REFUSE | errno.ENOSYS),
    ]  # fmt: skip
    for name in ("unshare", "setns", "mount"):
        lines += [(JUMP_EQUAL, 0, 1, call[name]), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    for name, test, value in (
        ("clone", JUMP_ANY_BIT, CLONE_NEW_ANY), ("socket", JUMP_EQUAL, AF_NETLINK),
    ):  # fmt: skip
        lines += [
            (JUMP_EQUAL, 0, 4, call[name]), (LOAD, 0, 0, FIRST_ARGUMENT), (test, 0, 1, value),
            (RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, ALLOW),
        ]  # fmt: skip
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def confine() -> None:
    """Of this process and all that it will start; there is no way back."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        number = 0
        while libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
            number += 1
    lines = program()
    loaded = _Program(len(lines) // 8, lines)
    for words in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0),
    ):
        if libc.prctl(*words) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not let a program confine itself")


if __name__ == "__main__":
    confine()
    os.execvp(sys.argv[1], sys.argv[1:])
