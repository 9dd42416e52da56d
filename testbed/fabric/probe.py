"""What this machine can do, found by trying it in throw-away private namespaces."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from testbed.errors import EnvironmentUnfit
from testbed.fabric import machine
from testbed.fabric.findings import Finding
from testbed.fabric.private import PrivateProcess, private_command, start_private
from testbed.fabric.privilege import Mode, mode

INSIDE_TIMEOUT_S = 20.0
INSIDE_COMMAND = [sys.executable, "-m", "testbed.fabric.trials"]
NAME = "namespaces"
Sysctl = Callable[[str], str | None]
# Each sysctl that may refuse user namespaces, and the command that allows them once and for all.
RESTRICTIONS = {
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "user.max_user_namespaces": ("0", "10000"),
}


def _sysctl(name: str) -> str | None:
    path = Path("/proc/sys") / name.replace(".", "/")
    try:
        return path.read_text().strip()
    except OSError:
        return None


def allow_rootless(sysctl: Sysctl = _sysctl) -> str:
    """The one-time command that lets ordinary users make user namespaces; "" if none is needed."""
    found = [
        f"{name}={allowed}"
        for name, (refused, allowed) in RESTRICTIONS.items()
        if sysctl(name) == refused
    ]
    if not found:
        return ""
    return f"echo {' '.join(found)} | tr ' ' '\\n' | sudo tee /etc/sysctl.d/60-testbed.conf; " + (
        "sudo sysctl --system"
    )


def user_namespace_fix(sysctl: Sysctl = _sysctl) -> str:
    """What to do if user namespaces are refused here."""
    instead = "or run the same command under sudo (same private namespaces, same cleanup)"
    once = allow_rootless(sysctl)
    if once:
        return f"{once}  ({instead})"
    return f"in a container: start it with --privileged or seccomp=unconfined; {instead}"


def privilege_row(chosen: Mode, sysctl: Sysctl = _sysctl) -> Finding:
    """How namespaces were made; as root also whether an ordinary user could, and how."""
    if chosen == "rootless":
        return Finding(NAME, "ok", "rootless, in a user namespace")
    once = allow_rootless(sysctl)
    if not once:
        return Finding(NAME, "ok", "as root; rootless would do as well")
    return Finding(NAME, "degraded", "users may not make them", once, "sudo, as now")


def _collect_inside(process: PrivateProcess) -> list[Finding]:
    try:
        out, err = process.popen.communicate(timeout=INSIDE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        out, err = b"", b"no answer within 20 s"
    if process.popen.returncode == 0:
        return [privilege_row(mode()), *msgspec.json.decode(out, type=list[Finding])]
    lines = err.decode(errors="replace").strip().splitlines()
    detail = lines[-1] if lines else f"exit code {process.popen.returncode}"
    ours = f"run `{' '.join(private_command(INSIDE_COMMAND))}` to see all it says"
    fix = user_namespace_fix() if detail.startswith("unshare:") else ours
    return [Finding(NAME, "missing", detail, fix)]


def _start() -> PrivateProcess:
    # The child must find this package too, however the parent was told of it.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return start_private(INSIDE_COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def _look(runs: Path, cache: Path, deep: bool) -> list[Finding]:
    return [
        *([machine.deep_torch()] if deep else []),
        *machine.telling(),
        *(row for row in machine.packages() if not (deep and row.name == "torch")),
        machine.disk("disk of runs", runs, "free space there, or choose another --runs"),
        machine.disk("disk of cache", cache, "free space there, or set XDG_CACHE_HOME"),
    ]


def probe(runs: Path, cache: Path, deep: bool = False) -> list[Finding]:
    """Try everything, in under a second on a quiet machine; with `deep` torch is imported.

    Never raises for what the machine lacks: that is a row with status "missing".
    """
    try:
        process = _start()
    except EnvironmentUnfit as refusal:
        inside = [Finding(NAME, "missing", str(refusal), "sudo apt install util-linux")]
        return [*inside, *_look(runs, cache, deep), *machine.levels()]
    with process:
        # What takes time goes on beside the trials; what is timed comes after them.
        outside = _look(runs, cache, deep)
        inside = _collect_inside(process)
    return [*inside, *outside, *machine.levels()]
