"""Whether this machine carries the links of a network: asked before hosts use them."""

import os
import sys
import time
from typing import TYPE_CHECKING

from testbed.errors import EnvironmentUnfit
from testbed.worlds.samples import core_times_s, cores

if TYPE_CHECKING:
    from testbed.fabric.calibrate import Calibrated
    from testbed.fabric.fabric import Fabric

BUSY_SHARE = 0.1  # of the cores, used by others meanwhile: then a slow link says nothing
ANY_SHARE = 0.0


def require_carried(fabric: "Fabric", only_fastest: bool = False) -> "list[Calibrated]":
    """Measure each kind of link, or the fastest one alone; to be called by PID 1.

    Raises EnvironmentUnfit if one does not carry its rate on an idle machine. Beside busy programs
    that is only said in the log, and what was measured shows it.
    """
    from testbed.fabric.calibrate import calibrate

    began_s, before_s = time.monotonic(), _foreign_s()
    try:
        return calibrate(fabric, only_fastest)
    except EnvironmentUnfit as refusal:
        share = (_foreign_s() - before_s) / (time.monotonic() - began_s) / cores()
        if share <= BUSY_SHARE:
            raise
        print(f"not refused, as others used {share:.0%} of the cores: {refusal}", file=sys.stderr)
        return calibrate(fabric, only_fastest, ANY_SHARE)


def _foreign_s() -> float:
    """CPU seconds of the cores beside this process and its ended children, which measure.

    A forkserver that still loads torch is as much in the way as a stranger.
    """
    return core_times_s()[0] - sum(os.times()[:4])
