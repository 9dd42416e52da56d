"""Stock Mininet's `mn` in private namespaces, with stand-ins for the programs that it lacks.

As `python -m testbed.fabric.stock_mn ARGS...`: PID 1 of the namespaces. As `... --mn ARGS...`: runs
the unmodified script of the installed package, inside.
"""

import importlib.metadata
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric import netlink
from testbed.fabric.namespaces import require_not_the_machine, require_private
from testbed.fabric.private import hold_lifeline, start_private

MODULE = "testbed.fabric.stock_mn"
STANDINS = Path(__file__).parent / "standins"
MADE_OF = {
    "mnexec": "util-linux",
    "brctl": "iproute2",
    "ifconfig": "iproute2",
    "ethtool": "iproute2",
}
# What people ask of hosts, and no stand-in would do: the package to install.
PROGRAMS = {"ping": "iputils-ping", "iperf": "iperf"}
SYSTEM = ("/usr/sbin", "/sbin")  # not on an ordinary user's PATH
DEFAULTS = {
    "--switch": "lxbr",
    "--controller": "none",
    "--ipbase": "198.18.0.0/15",
}
SHORT = {"--ipbase": "-i"}
BASH = ("bash", "--norc")


def search_path(path: str) -> str:
    """PATH with the system's folders, and the stand-ins last: whatever is installed goes first."""
    folders = [folder for folder in path.split(os.pathsep) if folder]
    folders += [folder for folder in SYSTEM if folder not in folders]
    return os.pathsep.join([*folders, str(STANDINS)])


def notes(path: str, args: Sequence[str]) -> list[str]:
    """A line for each stand-in that will be used and each program that has none."""
    said = [
        f"{name}: stand-in (on {origin})"
        for name, origin in MADE_OF.items()
        if Path(shutil.which(name, path=path) or "").parent == STANDINS
    ]
    for name, package in PROGRAMS.items():
        wanted = name == "ping" or any(name in arg for arg in args)
        if wanted and shutil.which(name, path=path) is None:
            said.append(f"{name}: missing, and there is no stand-in; install {package}")
    return said


def with_defaults(args: Sequence[str]) -> list[str]:
    """Arguments for mn with a switch and a controller that need nothing but the kernel.

    Raises InputError for --clean: it ends processes and removes files by name, whosever they are.
    """
    if any(_names(arg, "--clean", "-c") for arg in args):
        raise InputError("mn --clean is not run here; private namespaces leave nothing to clean")
    defaults = [
        f"{option}={value}"
        for option, value in DEFAULTS.items()
        if not any(_names(arg, option, SHORT.get(option)) for arg in args)
    ]
    return [*defaults, *args]


def _names(arg: str, option: str, short: str | None = None) -> bool:
    """Whether an argument is the option, which mn takes shortened too (`--cont none`)."""
    if not arg.startswith("--"):
        return short is not None and arg.startswith(short)
    word = arg.partition("=")[0]
    return len(word) > len("--cl") and option.startswith(word)


def mn_script() -> Path:
    """The script that pip installed with Mininet; raises EnvironmentUnfit without it."""
    try:
        files = importlib.metadata.files("mininet") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == "mn"]
    if not found or not found[0].is_file():
        raise EnvironmentUnfit(
            "Mininet's program mn is not installed; pip install mininet==2.3.0.dev6"
        )
    return found[0]


def run_stock(args: Sequence[str], shell: bool = False) -> int:
    """Run mn, or a shell in which mn can be run, on the caller's terminal; its exit code.

    Raises EnvironmentUnfit if the namespaces cannot be made, InputError for --clean.
    """
    if shell and args:
        raise InputError("--shell runs no mn; leave its arguments out, and give them in the shell")
    words = with_defaults(args)
    mn_script()
    path = search_path(os.environ.get("PATH", os.defpath))
    if shell:
        path = os.pathsep.join([str(STANDINS / "shell"), path])
    for line in notes(path, words):
        sys.stderr.write(line + "\n")
    sys.stderr.flush()
    modules = os.pathsep.join(filter(None, sys.path))
    env = {**os.environ, "PATH": path, "PYTHONPATH": modules, "DUALPATH_PYTHON": sys.executable}
    env.setdefault("SHELL", "/bin/sh")  # Mininet asks for it
    command = [sys.executable, "-m", MODULE, *(BASH if shell else (MODULE, *words))]
    process = start_private(command, env=env, foreground=True)
    with process:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is mn's
        try:
            return process.popen.wait()
        finally:
            signal.signal(signal.SIGINT, handler)


# Inside.


def _run_mn(args: list[str]) -> None:
    from testbed.fabric import _distutils

    require_not_the_machine()
    _distutils.install()
    import mininet.clean

    # It runs after an error or Ctrl-C, and would remove all logs of /tmp, whosever they are.
    mininet.clean.Cleanup.cleanup = mininet.clean.cleanup = _leave_cleaning_to_the_kernel
    script = str(mn_script())
    sys.argv = [script, *with_defaults(args)]
    runpy.run_path(script, run_name="__main__")


def _leave_cleaning_to_the_kernel() -> None:
    sys.stderr.write("nothing to clean: all ends with these namespaces\n")


def _wait_as_init(child: int) -> int:
    """Collect whoever ends, as PID 1 must, until the child does; its exit code."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _init(words: list[str]) -> int:
    hold_lifeline()
    require_private()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    netlink.Rtnetlink().send([netlink.link_up("lo", 1)])
    command = [sys.executable, "-m", MODULE, "--mn", *words[1:]] if words[0] == MODULE else words
    # It stays in the terminal's foreground group, and hears the Ctrl-C that is ignored here.
    child = subprocess.Popen(command, preexec_fn=_hear_interrupts)
    return _wait_as_init(child.pid)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main(argv: list[str]) -> int:
    """The command line, inside private namespaces; returns the exit code."""
    if argv[:1] == ["--mn"]:
        _run_mn(argv[1:])
        return 0
    return _init(argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
