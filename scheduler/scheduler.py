"""The loop: an event comes in, books change, a policy places, decisions go out.

A request waits for a PE and for a DE at once; each is chosen when a group of that side fetches.
Whichever comes second fixes the read path, and the decision goes out.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from scheduler import path
from scheduler.cluster import Cluster, Turn
from scheduler.errors import SchedulerError
from scheduler.failure import failed
from scheduler.policy import Placement, Policy, throw_back
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
        # On what the policy works: a request, if it is known; and whether on its read path.
        self._request: int | None = None
        self._reading = False

    def handle(self, event: Event) -> list[Decision]:
        """Decisions that this event completes, `seq` rising by one from 1.

        Raises SchedulerError if the event contradicts what is known of the cluster, PolicyFailed
        if the policy raises, or decides what cannot be.
        """
        self._cluster.hear(event)
        if self._observer is not None and isinstance(event, Fetch):
            self._observer.fetching(self._cluster, event.group)
        self._request, self._reading = None, False
        try:
            return self._decide(self._ask(event))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a policy may raise what is meant for event loops, too
            raise failed(self._policy, *self._question(event), error) from error

    def _ask(self, event: Event) -> Iterable[Placement] | None:
        match event:  # the most frequent first
            case Fetch():
                return self._policy.fetch(self._cluster, event.group)
            case Arrived():
                return self._policy.arrived(self._cluster, event.request)
            case Ended():
                self._policy.ended(event.request_id)
                return None

    def _decide(self, placements: Iterable[Placement] | None) -> list[Decision]:
        # One at a time: a policy's next choice rests on the books after this one.
        decisions = []
        for placement in placements or ():
            try:
                turn = self._place(placement)
            except SchedulerError as error:
                throw_back(placements, error)
            if turn.pe is not None and turn.de is not None:
                decisions.append(self._complete(turn.request, turn.pe, turn.de))
            self._request = None
        return decisions

    def _place(self, placement: Placement) -> Turn:
        if not isinstance(placement, Placement):
            raise SchedulerError(
                f"a placement is {placement!r}; yield Placement(request.id, engine.name)"
            )
        self._request = placement.request_id
        if self._observer is not None:
            self._observer.placing(self._cluster, placement)
        return self._cluster.place(placement.request_id, placement.engine)

    def _complete(self, request: Request, pe: str, de: str) -> Decision:
        self._reading = True
        if self._observer is not None:
            self._observer.reading(self._cluster, request, pe, de)
        reads = self._policy.reads(self._cluster, request, pe, de)
        path.check(self._cluster, request, reads)
        self._reading = False
        return self._cluster.decide(request.id, pe, de, reads)

    def _question(self, event: Event) -> tuple[str, int | None]:
        """Which decision the policy was asked for when it failed, and about which request."""
        word = "reads" if self._reading else type(event).__name__.lower()
        if self._request is not None:
            return word, self._request
        match event:
            case Arrived():
                return word, event.request.id
            case Ended():
                return word, event.request_id
            case Fetch():  # whom it was to place next
                waiting = self._cluster.waiting(self._cluster.groups[event.group].side)
                return word, waiting[0].id if waiting else None
