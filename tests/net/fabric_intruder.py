"""PID 1 of private namespaces, which tries what it must not be able to do; one JSON line.

argv[1] says what: "files", "machine" (write the machine's settings), "outer" (join an fd given
as argv[2]), "claim" (say that the namespaces one is in are the outer ones).
"""

import json
import os
import sys
from pathlib import Path

from testbed.errors import EnvironmentUnfit
from testbed.fabric.namespaces import OUTER_NETNS_ENV, create, join, own_inodes, require_private
from testbed.fabric.netlink import Rtnetlink
from testbed.fabric.private import hold_lifeline

SETTINGS = ("/proc/sys/kernel/pty/max", "/proc/sys/fs/file-max", "/sys/class/net/lo/mtu")


def tried(path: str) -> str:
    """Write back what a file says; "written", or why not."""
    try:
        value = Path(path).read_text()
        Path(path).write_text(value)
    except OSError as refusal:
        return type(refusal).__name__
    return "written"


def refused(trial: object, *args: object) -> str:
    try:
        trial(*args)  # type: ignore[operator]
    except EnvironmentUnfit as refusal:
        return str(refusal)
    return ""


def open_files() -> list[str]:
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(fd))
        except FileNotFoundError:  # the listing's own
            continue
    return sorted(links)


def main() -> object:
    what = sys.argv[1]
    if what == "files":
        umask = os.umask(0)
        return {"open": open_files(), "umask": umask, "user": os.stat("/proc/self").st_uid}
    if what == "claim":
        os.environ[OUTER_NETNS_ENV] = ",".join(map(str, own_inodes()))
        return [refused(require_private), refused(Rtnetlink)]
    require_private()
    if what == "machine":
        return {path: tried(path) for path in SETTINGS}
    os.environ[OUTER_NETNS_ENV] += f",{os.stat(f'/proc/self/fd/{sys.argv[2]}').st_ino}"
    return [refused(join, int(sys.argv[2])), refused(join, create())]


hold_lifeline()
print(json.dumps(main()))
