"""Do links carry the rates they are set to? Measured by pushing TCP through them.

An attempt takes about 0.1 s. A busy machine gives less than the shaper's rate, and what waited
meanwhile more; so a link is retried, and the attempt nearest to its rate counts.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric import netlink
from testbed.fabric.linkstate import LinkId
from testbed.fabric.namespaces import create
from testbed.fabric.push import Flow, Place, push
from testbed.fabric.shaping import shape

if TYPE_CHECKING:
    from testbed.fabric.fabric import Fabric

WARM_S = 0.03  # the burst is spent and TCP's first doublings are over
WINDOWS_S = (0.06, 0.06, 0.12, 0.12, 0.24)  # of the attempts; a disturbance is short
# Several flows keep packets waiting where one of few packets depends on the next wake-up.
FLOWS, FLOWS_BELOW_BPS = 4, 200e6
GOOD_ERROR = 0.005
LEAST_SHARE = 0.98
LEAST_TRIAL_SHARE = 0.9  # beside a cluster at work
SPARE = 2.0  # slower links on the way are opened this far beyond the rate to be measured
DRAIN_S = 2.0
Pair = tuple[str, str]
Port = tuple[str, str, str]


class Calibrated(msgspec.Struct, frozen=True):
    """A link's rate as asked and as measured, payload bit/s, and the attempts that it took.

    It stands for all links of its nic with this rate.
    """

    owner: str
    nic: str
    asked_bps: float
    measured_bps: float
    attempts: int

    @property
    def error(self) -> float:
        """Measured over asked, less 1."""
        return self.measured_bps / self.asked_bps - 1


def calibrate(
    fabric: "Fabric", only_fastest: bool = False, least_share: float = LEAST_SHARE
) -> list[Calibrated]:
    """Measure one link of each nic and rate of an idle fabric; counters show nothing of it.

    With `only_fastest` one link of the highest rate: where a machine gives out first. Raises
    EnvironmentUnfit for the first link that carries less than `least_share` of its rate.
    """
    kinds: dict[tuple[str, float], LinkId] = {}
    for link in fabric.links():
        if link.payload_bps is not None:
            kinds.setdefault((link.nic, link.payload_bps), link.link_id)
    if only_fastest and kinds:
        fastest = max(kinds, key=lambda kind: kind[1])
        kinds = {fastest: kinds[fastest]}
    results = []
    with fabric.uncounted():
        for (_, bps), link_id in kinds.items():
            pair, slower = emptiest_path(fabric, link_id, bps)
            with fabric.opened(slower, SPARE * bps):
                measured_bps, used = _best(_flow(fabric, pair, bps), bps)
                _await_drained(fabric)
            require_reached(":".join(link_id), bps, measured_bps, least_share)
            fabric.carried_bps = max(fabric.carried_bps, bps)
            results.append(Calibrated(*link_id, bps, measured_bps, used))
    return results


def _best(flow: Flow, asked_bps: float) -> tuple[float, int]:
    flows = [flow] * (FLOWS if asked_bps < FLOWS_BELOW_BPS else 1)
    best_bps, attempts = 0.0, 0
    for window_s in WINDOWS_S:
        attempts += 1
        bps = push(flows, WARM_S, window_s)
        best_bps = min(best_bps, bps, key=lambda value: abs(value / asked_bps - 1))
        if abs(best_bps / asked_bps - 1) <= GOOD_ERROR:
            break
    return best_bps, attempts


def require_reached(
    name: str, asked_bps: float, measured_bps: float, least_share: float = LEAST_SHARE
) -> None:
    """Raise EnvironmentUnfit unless a link was measured to carry its rate."""
    if measured_bps < least_share * asked_bps:
        raise EnvironmentUnfit(
            f"{name} was to carry {asked_bps / 1e6:,.1f} Mbit/s of payload and carries "
            f"{measured_bps / 1e6:,.1f} on this machine; lower its rate, make scale.time_scale "
            "larger, or end other programs"
        )


def _flow(fabric: "Fabric", pair: Pair, bps: float) -> Flow:
    sender, receiver = (fabric.hosts[name] for name in pair)
    nic = fabric.topo.shape.path(*pair)[-1].nic
    target = receiver.nics[nic]
    source = sender.addresses[target.network]
    return Flow(Place(sender.netns_fd, source), Place(receiver.netns_fd, target.ip), bps)


def emptiest_path(fabric: "Fabric", link_id: LinkId, bps: float) -> tuple[Pair, list[LinkId]]:
    """Hosts between which data crosses what the link's owner sends, and the slower links on it.

    Of all pairs, one with the fewest slower links. Raises InputError if no data passes the link.
    """
    rates = {link.link_id: link.payload_bps for link in fabric.links()}
    best: tuple[Pair, list[LinkId]] | None = None
    for pair, ports in _pairs_over(fabric, (*link_id, "tx")):
        slower = [port[:2] for port in ports if (rates[port[:2]] or float("inf")) < bps]
        if best is None or len(slower) < len(best[1]):
            best = pair, slower
        if not slower:
            break
    if best is None:
        raise InputError(
            f"no two hosts send data over {':'.join(link_id)}; leave it unshaped or add hosts"
        )
    return best


def _pairs_over(fabric: "Fabric", target: Port) -> Iterator[tuple[Pair, list[Port]]]:
    path: Callable[[str, str], Sequence[Port]] = fabric.topo.shape.path
    for sender in fabric.hosts:
        if target[1] != "uplink" and sender != target[0]:
            continue
        for receiver in fabric.hosts:
            if receiver == sender:
                continue
            try:
                ports = [(port[0], port[1], port[2]) for port in path(sender, receiver)]
            except ValueError:
                continue  # no data network joins them
            if target in ports:
                yield (sender, receiver), ports


def _await_drained(fabric: "Fabric") -> None:
    """What the push left in queues is not to meet the next one, nor to be counted later."""
    deadline_s = time.monotonic() + DRAIN_S
    while any(any(ends) for ends in fabric.backlogs().values()):
        if time.monotonic() > deadline_s:
            raise EnvironmentUnfit(
                f"links still held data {DRAIN_S:g} s after their calibration; "
                "calibrate a fabric that nobody uses"
            )


def require_carried(name: str, payload_bps: float, burst_limit_bytes: int | None) -> float:
    """Try a rate on a link of its own, beside the fabric, and return it if it was reached.

    Raises EnvironmentUnfit if not. Takes 0.1 s if this machine carries the rate.
    """
    fds = create(), create()
    try:
        places = [Place(fd, f"198.18.0.{number}") for number, fd in enumerate(fds, 1)]
        _join(places, payload_bps, burst_limit_bytes)
        measured_bps, _ = _best(Flow(places[0], places[1], payload_bps), payload_bps)
    finally:
        for fd in fds:  # the namespaces end with their last fd, and the link with them
            os.close(fd)
    require_reached(name, payload_bps, measured_bps, LEAST_TRIAL_SHARE)
    return payload_bps


def _join(places: list[Place], payload_bps: float, burst_limit_bytes: int | None) -> None:
    sockets = [netlink.Rtnetlink(place.netns_fd) for place in places]
    macs = [f"02:00:00:00:00:0{number}" for number in (1, 2)]
    near = netlink.VethEnd("trial", 2, macs[0])
    far = netlink.VethEnd("trial", 2, macs[1], places[1].netns_fd)
    sockets[0].send([netlink.veth(near, far)])
    for number, sock in enumerate(sockets):
        own, other = places[number], places[1 - number]
        sock.send(
            [
                netlink.address(2, own.ip, 30),
                netlink.link_up("trial", 2),
                netlink.neighbour(2, other.ip, macs[1 - number]),
            ]
        )
    sockets[0].send(shape("trial", 2, payload_bps, True, burst_limit_bytes))
    for sock in sockets:
        sock.close()
