"""Which privilege makes the private namespaces, and what of the machine stays out of reach."""

import ctypes
import os
import signal
from pathlib import Path
from typing import Literal

from testbed.errors import EnvironmentUnfit, InputError

Mode = Literal["rootless", "sudo"]
PRIVILEGE_ENV = "DUALPATH_PRIVILEGE"
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
PR_SET_PDEATHSIG = 1
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 0x1, 0x20, 0x1000, 0x4000
KEPT_FLAGS = 0x2 | 0x4 | 0x8  # nosuid, nodev, noexec: statvfs and mount number them alike
_UNSHARE = "--net --mount --propagation private --pid --fork --mount-proc --kill-child"
_libc = ctypes.CDLL(None, use_errno=True)


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _may_unshare() -> bool:
    needed = 1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN
    return os.geteuid() == 0 and _effective_capabilities() & needed == needed


def mode() -> Mode:
    """How private namespaces are made here: by a user namespace of one's own, or as root.

    Root takes no user namespace: that maps root alone, and nobody's home could be read in it.
    DUALPATH_PRIVILEGE=rootless or sudo decides instead. Raises InputError for another word,
    EnvironmentUnfit for "sudo" without the privilege.
    """
    asked = os.environ.get(PRIVILEGE_ENV, "")
    if asked not in ("", "rootless", "sudo"):
        raise InputError(f"{PRIVILEGE_ENV} is {asked!r}; set it to rootless or sudo, or unset it")
    if asked == "rootless":
        return "rootless"
    if _may_unshare():
        return "sudo"
    if asked == "sudo":
        raise EnvironmentUnfit(
            f"{PRIVILEGE_ENV}=sudo and user {os.geteuid()} may not make namespaces as root; "
            "run the same command under sudo, or unset it"
        )
    return "rootless"


def mode_inside() -> Mode:
    """The same, asked by a program in the private namespaces: whether it has users of its own."""
    maps_everyone = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
    return "sudo" if maps_everyone else "rootless"


def unshare_options(chosen: Mode) -> list[str]:
    """Options of util-linux's unshare; both modes differ in the user namespace alone."""
    user = ["--user", "--map-root-user"] if chosen == "rootless" else []
    return [*user, *_UNSHARE.split()]


def end_with_sudo() -> None:
    """Have SIGTERM sent to this process when the sudo that started it is killed.

    sudo passes signals on, but not the one that ends itself. Nothing if the parent is no sudo.
    """
    parent = os.getppid()
    try:
        name = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:
        return
    if name != "sudo":
        return
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it was killed meanwhile
        os.kill(os.getpid(), signal.SIGTERM)


def _mount(target: str, flags: int) -> None:
    path = target.encode()
    if _libc.mount(path, path, None, ctypes.c_ulong(flags), None) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), target)


def _mounts_below(folder: str) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point == folder or point.startswith(folder + "/")]


def _read_only(point: str) -> None:
    kept = os.statvfs(point).f_flag & KEPT_FLAGS
    _mount(point, MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def lock_machine() -> None:
    """Make the machine's sysctls and /sys read-only, in this mount namespace alone.

    Root in private namespaces is still the machine's root to both. Only /proc/sys/net stays
    writable: what it shows belongs to the caller's network namespace. To be called in a private
    mount namespace; raises EnvironmentUnfit if the kernel refuses.
    """
    try:
        if "/proc/sys" not in _mounts_below("/proc/sys"):
            _mount("/proc/sys", MS_BIND)
            _mount("/proc/sys/net", MS_BIND)
        _read_only("/proc/sys")
        for point in dict.fromkeys(_mounts_below("/sys")):
            _read_only(point)
    except OSError as refusal:
        raise EnvironmentUnfit(
            f"{refusal.filename} cannot be made read-only ({refusal.strerror}), so the machine's "
            "own settings would be within reach; run `testbed doctor`"
        ) from refusal
