"""The loop: an event comes in, books change, a policy places, decisions go out.

A request waits for a PE and for a DE at once; each is chosen when a group of that side fetches.
Whichever comes second fixes the read path, and the decision goes out.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policy import Placement, Policy
from scheduler.types import Arrived, ClusterSpec, Decision, Ended, Event, Fetch, Request


class Decides(Protocol):
    """Whoever turns events into decisions: the scheduler below, or one in another process."""

    def handle(self, event: Event) -> Sequence[Decision]:
        """Decisions that this event completes; raises SchedulerError."""
        ...


class Observer(Protocol):
    """Looks at the books while something is decided, and changes nothing."""

    def fetching(self, cluster: Cluster, group: str) -> None:
        """The group's reports are booked, and nothing is placed yet."""
        ...

    def placing(self, cluster: Cluster, placement: Placement) -> None:
        """An engine is chosen, and not booked yet."""
        ...

    def reading(self, cluster: Cluster, request: Request, pe: str, de: str) -> None:
        """Both engines are booked, and the read path is not decided yet."""
        ...


class Scheduler:
    """One cluster under one policy; the same events always give the same decisions."""

    def __init__(self, spec: ClusterSpec, policy: Policy, observer: Observer | None = None) -> None:
        self._cluster = Cluster(spec)
        self._policy = policy
        self._observer = observer

    def handle(self, event: Event) -> list[Decision]:
        """Decisions that this event completes, `seq` rising by one from 1.

        Raises SchedulerError if the event contradicts what is known of the cluster.
        """
        match event:
            case Arrived():
                self._cluster.arrive(event.request)
                return self._decide(self._policy.arrived(self._cluster, event.request))
            case Fetch():
                self._cluster.report(event)
                if self._observer is not None:
                    self._observer.fetching(self._cluster, event.group)
                return self._decide(self._policy.fetch(self._cluster, event.group))
            case Ended():
                self._cluster.end(event.request_id)
                self._policy.ended(event.request_id)
                return []

    def _decide(self, placements: Iterable[Placement]) -> list[Decision]:
        # One at a time: a policy's next choice rests on the books after this one.
        decisions = []
        for placement in placements:
            if self._observer is not None:
                self._observer.placing(self._cluster, placement)
            turn = self._cluster.place(placement.request_id, placement.engine)
            if turn.pe is None or turn.de is None:
                continue
            if self._observer is not None:
                self._observer.reading(self._cluster, turn.request, turn.pe, turn.de)
            reads = self._policy.reads(self._cluster, turn.request, turn.pe, turn.de)
            path.check(self._cluster, turn.request, reads)
            decisions.append(self._cluster.decide(turn.request.id, turn.pe, turn.de, reads))
        return decisions
