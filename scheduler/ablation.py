"""`basic` with some of DualPath's three parts, for what each of them brings (DualPath section 7).

The name says which: `basic+layerwise`, `basic+layerwise+dual-path`, `basic+scheduling`; with all
three it decides as `dualpath` does. scheduler/lookup.py makes them.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.errors import SchedulerError
from scheduler.policies.basic import Basic
from scheduler.policies.dualpath import DualPath
from scheduler.policy import Placement, Policy, Traits
from scheduler.types import ReadExtent, Request, Side

BASE = "basic"


class Switch(StrEnum):
    """A part of DualPath.

    `scheduling`: Algorithm 1, the choice of DEs, the compute quota, and, where both sides may
    read, the shorter queue.
    """

    LAYERWISE = "layerwise"
    DUAL_PATH = "dual-path"
    SCHEDULING = "scheduling"


def parse(name: str) -> "Ablation | None":
    """The policy that a name such as `basic+layerwise` means; None if it is no such name.

    Raises SchedulerError for an unknown switch, or one that is named twice.
    """
    base, *words = name.split("+")
    if base != BASE or not words:
        return None
    known = [str(switch) for switch in Switch]
    for word in words:
        if word not in known or words.count(word) > 1:
            raise SchedulerError(
                f"policy {name}: {word!r} is not a switch of {BASE}, or is there twice; add each "
                f"of {', '.join(known)} at most once"
            )
    return Ablation(frozenset(Switch(word) for word in words))


class Ablation:
    """`basic`, with the decisions of `dualpath` for those parts that are switched on."""

    def __init__(self, switches: frozenset[Switch]) -> None:
        self._scheduling = Switch.SCHEDULING in switches
        self._dual_path = Switch.DUAL_PATH in switches
        self._places: Policy = DualPath() if self._scheduling else Basic()
        self._reads = 0
        self.traits = _traits(switches)

    def arrived(self, cluster: Cluster, request: Request) -> Iterator[Placement]:
        """In turn at once, or queued for the group that fetches."""
        yield from self._places.arrived(cluster, request)

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """What is queued, if anything is."""
        yield from self._places.fetch(cluster, group)

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """The prefill node; with both paths the sides in turn, with scheduling too the shorter."""
        if not self._dual_path:
            return path.whole(cluster, request, Side.PE)
        if self._scheduling:
            return self._places.reads(cluster, request, pe, de)
        side = path.in_turn(cluster, self._reads)
        self._reads += bool(request.hit_tokens)
        return path.whole(cluster, request, side)

    def ended(self, request_id: int) -> None:
        """Forget a request that failed while it waited."""
        self._places.ended(request_id)


def _traits(switches: frozenset[Switch]) -> Traits:
    """Batches by tokens as in `basic`, or by quota; a read-ahead only where loading is apart."""
    scheduled, layerwise = Switch.SCHEDULING in switches, Switch.LAYERWISE in switches
    traits = msgspec.structs.replace(
        DualPath.traits if scheduled else Basic.traits, layerwise=layerwise
    )
    ahead = None if layerwise else Basic.traits.read_ahead
    return msgspec.structs.replace(traits, read_ahead=ahead)
