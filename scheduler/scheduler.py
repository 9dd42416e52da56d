"""The loop: an event comes in, books change, a policy places, decisions go out.

A request waits for a PE and for a DE at once; each is chosen when a group of that side fetches.
Whichever comes second fixes the read path, and the decision goes out.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Protocol

from scheduler import path
from scheduler.cluster import Cluster, Turn
from scheduler.errors import SchedulerError
from scheduler.failure import failed
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
        self._asked: tuple[str, int | None] = "", None  # for which decision, and on which request

    def handle(self, event: Event) -> list[Decision]:
        """Decisions that this event completes, `seq` rising by one from 1.

        Raises SchedulerError if the event contradicts what is known of the cluster, PolicyFailed
        if the policy raises, or decides what cannot be.
        """
        self._cluster.now_s = event.now_s
        match event:
            case Arrived():
                self._cluster.arrive(event.request)
                self._asked = "arrived", event.request.id
            case Fetch():
                self._cluster.report(event)
                self._asked = "fetch", None
                if self._observer is not None:
                    self._observer.fetching(self._cluster, event.group)
            case Ended():
                self._cluster.end(event.request_id)
                self._asked = "ended", event.request_id
        try:
            return self._decide(self._ask(event))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a policy may raise what is meant for event loops, too
            decision, request_id = self._asked
            if request_id is None and isinstance(event, Fetch):  # whom it was to place next
                side = self._cluster.groups[event.group].side
                request_id = next((request.id for request in self._cluster.waiting(side)), None)
            raise failed(self._policy, decision, request_id, error) from error

    def _ask(self, event: Event) -> Iterable[Placement] | None:
        match event:
            case Arrived():
                return self._policy.arrived(self._cluster, event.request)
            case Fetch():
                return self._policy.fetch(self._cluster, event.group)
            case Ended():
                self._policy.ended(event.request_id)
                return ()

    def _decide(self, placements: Iterable[Placement] | None) -> list[Decision]:
        # One at a time: a policy's next choice rests on the books after this one.
        decisions = []
        asked = self._asked
        for placement in placements or ():
            turn = self._place(placement, placements)
            if turn.pe is not None and turn.de is not None:
                self._asked = "reads", turn.request.id
                if self._observer is not None:
                    self._observer.reading(self._cluster, turn.request, turn.pe, turn.de)
                reads = self._policy.reads(self._cluster, turn.request, turn.pe, turn.de)
                path.check(self._cluster, turn.request, reads)
                decisions.append(self._cluster.decide(turn.request.id, turn.pe, turn.de, reads))
            self._asked = asked
        return decisions

    def _place(self, placement: Placement, placements: Iterable[Placement] | None) -> Turn:
        """Book it; what cannot be is thrown to the line that yielded it."""
        try:
            if not isinstance(placement, Placement):
                raise SchedulerError(
                    f"a placement is {placement!r}; yield Placement(request.id, engine.name)"
                )
            self._asked = self._asked[0], placement.request_id
            if self._observer is not None:
                self._observer.placing(self._cluster, placement)
            return self._cluster.place(placement.request_id, placement.engine)
        except SchedulerError as error:
            if isinstance(placements, Generator):
                placements.throw(error)
            raise
