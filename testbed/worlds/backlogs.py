"""Links under full load: what leaves a queue that cannot have run empty is the link's own rate.

A queue that holds more than the link can carry until the next look is never empty between the two.
Looks of a chain follow so closely that queues of 10 ms reach from one to the next.
"""

import time
from collections.abc import Callable, Mapping

from testbed.fabric.wire import wire_bps
from testbed.worlds.network import Network
from testbed.worlds.samples import Backlogged

GAP_S = 0.003
MOST_LOOKS = 9

Queue = tuple[int, int]  # bytes sent so far, and bytes that wait, as on the wire
Look = Callable[[], Mapping[str, Queue]]


def queues(fabric: Network) -> dict[str, Queue]:
    """Of each end of each shaped link, all classes together; keys as in `Samples`."""
    found = {}
    for (host, nic), classes in fabric.class_counters().items():
        for way, counters in ((">", classes.sent), ("<", classes.received)):
            each = counters.values()
            waiting = sum(one.backlog_bytes for one in each)
            found[f"{host}:{nic}{way}"] = (sum(one.sent_bytes for one in each), waiting)
    return found


def nominal_bytes_per_s(fabric: Network) -> dict[str, float]:
    """What the shaper lets pass at each end of each shaped link, as on the wire."""
    return {
        f"{host}:{nic}{way}": wire_bps(bps) / 8
        for (host, nic), bps in fabric.payload_rates().items()
        if bps is not None
        for way in "><"
    }


def chain(
    look: Look,
    nominal: Mapping[str, float],
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Backlogged]:
    """Look at the queues until none has held out; what each carried while it surely did."""
    begin_s, first = now_s(), look()
    links = [link for link, rate in nominal.items() if first[link][1] >= rate * GAP_S]
    found: dict[str, Backlogged] = {}
    before_s, before = begin_s, first
    for _ in range(MOST_LOOKS - 1):
        if not links:
            break
        sleep(GAP_S)
        at_s, now = now_s(), look()
        after_s = now_s()  # a queue may have been looked at as late as this
        links = [link for link in links if before[link][1] >= nominal[link] * (after_s - before_s)]
        for link in links:
            sent = now[link][0] - first[link][0]
            length_s = at_s - begin_s
            found[link] = Backlogged(link, begin_s, length_s, sent, nominal[link] * length_s)
        before_s, before = at_s, now
    return list(found.values())
