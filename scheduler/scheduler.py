"""The loop: an event comes in, books change, a policy places, decisions go out.

A request waits for a PE and for a DE at once; each is chosen when a group of that side fetches.
Whichever comes second fixes the read path, and the decision goes out.
"""

from collections.abc import Iterable

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.policy import Placement, Policy
from scheduler.types import Arrived, ClusterSpec, Decision, Ended, Event, Fetch


class Scheduler:
    """One cluster under one policy; the same events always give the same decisions."""

    def __init__(self, spec: ClusterSpec, policy: Policy) -> None:
        self._cluster = Cluster(spec)
        self._policy = policy

    def handle(self, event: Event) -> list[Decision]:
        """Decisions that this event completes, `seq` rising by one from 1.

        Raises SchedulerError if the event contradicts what is known of the cluster.
        """
        self._cluster.now_s = event.now_s
        match event:
            case Arrived():
                self._cluster.arrive(event.request)
                return self._decide(self._policy.arrived(self._cluster, event.request))
            case Fetch():
                self._cluster.report(event)
                return self._decide(self._policy.fetch(self._cluster, event.group))
            case Ended():
                self._cluster.end(event.request_id)
                self._policy.ended(event.request_id)
                return []

    def _decide(self, placements: Iterable[Placement]) -> list[Decision]:
        # One at a time: a policy's next choice rests on the books after this one.
        decisions = []
        for placement in placements:
            turn = self._cluster.place(placement.request_id, placement.engine)
            if turn.pe is None or turn.de is None:
                continue
            reads = self._policy.reads(self._cluster, turn.request, turn.pe, turn.de)
            path.check(self._cluster, turn.request, reads)
            decisions.append(self._cluster.decide(turn.request.id, turn.pe, turn.de, reads))
        return decisions
