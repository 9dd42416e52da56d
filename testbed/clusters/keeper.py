"""PID 1 of a cluster that was brought up by hand: builds its network, then serves until the end.

Run as `python -m testbed.clusters.keeper FOLDER`. Until it is up it says each step on standard
output, one JSON object a line; from then on it writes to its folder's log.
"""

import os
import selectors
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from testbed.clusters.control import Control, inherited_listener
from testbed.clusters.protocol import About
from testbed.errors import TestbedError
from testbed.fabric.private import hold_lifeline
from testbed.worlds.carried import require_carried
from testbed.worlds.wires import build_fabric

if TYPE_CHECKING:
    from testbed.fabric.calibrate import Calibrated
    from testbed.fabric.fabric import Fabric

PLAN, LOG = "keeper.msgpack", "lab.log"


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of progress; the last is "up", or "failed" with the reason."""

    phase: str
    seconds: float = 0.0
    reason: str = ""
    exit_code: int = 0


def say(step: Step) -> None:
    """One line for the supervisor."""
    sys.stdout.write(msgspec.json.encode(step).decode() + "\n")
    sys.stdout.flush()


def build(about: About) -> "tuple[Fabric, list[Calibrated]]":
    """The network, each step said; its links carry what they are asked to, or EnvironmentUnfit."""
    began_s = time.monotonic()
    say(Step("network"))
    fabric = build_fabric(about.wires)
    say(Step("shaped", time.monotonic() - began_s))
    began_s = time.monotonic()
    calibrated = require_carried(fabric)
    say(Step("calibrated", time.monotonic() - began_s))
    return fabric, calibrated


def serve(control: Control) -> None:
    """Answer callers until one asks for the end; reap what is left behind meanwhile."""
    # Children of the user's programs that outlive these become ours, as init's always do.
    waker, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(waker, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    control.serve()
                else:
                    os.read(waker, 4096)
                    _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main() -> int:
    """The program; ends by SystemExit when asked to."""
    hold_lifeline()
    folder = Path(sys.argv[1])
    listener = inherited_listener()
    about = msgspec.msgpack.decode((folder / PLAN).read_bytes(), type=About)
    try:
        fabric, calibrated = build(about)
    except TestbedError as error:
        say(Step("failed", reason=str(error), exit_code=error.exit_code))
        return error.exit_code
    control = Control(listener, about, fabric, calibrated)
    control.phase = "up"
    say(Step("up"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(control)
    return 0


if __name__ == "__main__":
    sys.exit(main())
