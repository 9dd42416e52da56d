"""Whether this machine carries a run's fastest link: asked when its hosts are ready and idle."""

import sys
import time
from typing import TYPE_CHECKING

from testbed.errors import EnvironmentUnfit
from testbed.worlds.samples import core_times_s, cores, own_times_s

if TYPE_CHECKING:
    from testbed.fabric.fabric import Fabric

BUSY_SHARE = 0.1  # of the cores, used by others meanwhile: then a slow link says nothing


def require_carried(fabric: "Fabric") -> None:
    """Raise EnvironmentUnfit if the fastest link does not carry its rate on an idle machine.

    Beside busy programs it is only said, in the lab's log: the run's verdict will tell.
    """
    from testbed.fabric.calibrate import calibrate

    began_s, before_s = time.monotonic(), _foreign_s()
    try:
        calibrate(fabric, only_fastest=True)
    except EnvironmentUnfit as refusal:
        share = (_foreign_s() - before_s) / (time.monotonic() - began_s) / cores()
        if share <= BUSY_SHARE:
            raise
        print(f"not refused, as others used {share:.0%} of the cores: {refusal}", file=sys.stderr)


def _foreign_s() -> float:
    """CPU seconds of the cores that no process of this PID namespace used."""
    return core_times_s()[0] - own_times_s(frozenset())[0]
