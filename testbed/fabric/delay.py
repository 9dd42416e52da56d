"""Delay of a link by netem, in front of the shaping, so that classes and rates stay exact.

Under a class, netem would hold packets that wait for the rate beside those that wait for their
time, and its limit would stand in place of the class's. In front, each packet first waits for its
time and then meets the same tree as without delay.
"""

from functools import lru_cache

from pyroute2.netlink.rtnl.tcmsg import sched_netem, tcmsg

from testbed.errors import EnvironmentUnfit
from testbed.fabric.netlink import (
    CREATE,
    NLM_F_REQUEST,
    RTM_DELQDISC,
    RTM_NEWQDISC,
    TC_H_ROOT,
    Request,
    Rtnetlink,
    addressed,
    encode,
)

NETEM = 0x20000
BEHIND_NETEM = NETEM | 1
LIMIT_PACKETS = 1_000_000  # what is under way; queues have limits of their own
LO_INDEX = 1


@lru_cache(maxsize=256)
def _netem(delay_s: float, flags: int) -> bytes:
    options = sched_netem.get_parameters({"delay": delay_s * 1e6, "limit": LIMIT_PACKETS})
    attrs = [("TCA_KIND", "netem"), ("TCA_OPTIONS", options)]
    return encode(tcmsg, RTM_NEWQDISC, flags, {"handle": NETEM, "parent": TC_H_ROOT}, attrs)


def delay(name: str, index: int, delay_s: float) -> list[Request]:
    """Requests that put a delay in front of an interface without a root qdisc."""
    what = f"delay {name} by {delay_s * 1e3:g} ms"
    return addressed(what, (_netem(delay_s, CREATE),), index)


def redelay(name: str, index: int, delay_s: float) -> list[Request]:
    """Requests that change the delay of an interface that has one; 0 is none."""
    what = f"delay {name} by {delay_s * 1e3:g} ms"
    return addressed(what, (_netem(delay_s, NLM_F_REQUEST),), index)


def undelay(name: str, index: int) -> list[Request]:
    """Requests that remove netem and all behind it; what waits in them is lost."""
    fields = {"handle": NETEM, "parent": TC_H_ROOT}
    message = encode(tcmsg, RTM_DELQDISC, NLM_F_REQUEST, fields, [])
    return addressed(f"remove the delay of {name}", (message,), index)


def netem_works(lab: Rtnetlink) -> bool:
    """Whether the kernel has netem, found by trying it on the lab's own lo."""
    try:
        lab.send(delay("lo", LO_INDEX, 0.0))
    except EnvironmentUnfit:
        return False
    lab.send(undelay("lo", LO_INDEX))
    return True
