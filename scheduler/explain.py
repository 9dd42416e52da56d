"""Why a request went where it went: the books in the moments in which it was decided.

A scheduler is a function of its events. So a recorded run is decided once more under an observer,
and the run itself pays nothing.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import msgspec

from scheduler import path, reasons
from scheduler.books import EngineBook
from scheduler.cluster import Cluster
from scheduler.decode import DecodeQueue
from scheduler.errors import SchedulerError
from scheduler.policy import Placement
from scheduler.prefill import PrefillQueue
from scheduler.reasons import Candidate, Choice, Drained, Explanation
from scheduler.scheduler import Observer
from scheduler.types import Arrived, ClusterSpec, Decision, Ended, Event, Fetch, Request, Side

Part = TypeVar("Part")


@runtime_checkable
class Explains(Protocol):
    """A policy with reasons of its own; nobody asks for them while a run is under way."""

    def explain(self, cluster: Cluster, request: Request, engine: str | None) -> dict[str, Any]:
        """What it looks at before it takes `engine`, or before it decides the reads (None)."""
        ...


class Explainer:
    """An observer that writes down what concerns one request.

    `wanted` is an agent and a turn of it, or None and a request's number. `policy` is the one that
    decides, None if it cannot be asked: then its choices are told, and no reason.
    """

    def __init__(self, spec: ClusterSpec, policy: object, wanted: tuple[int | None, int]) -> None:
        self._spec = spec
        self._policy = policy
        self._wanted = wanted
        self._now_s = 0.0
        self._fetching = ""
        self._waiting: dict[Side, dict[int, None]] = {side: {} for side in Side}
        self._ahead: dict[Side, int] = {}
        self.found: Explanation | None = None

    def before(self, event: Event) -> None:
        """The scheduler is about to hear of it."""
        self._now_s = event.now_s
        self._fetching = event.group if isinstance(event, Fetch) else ""
        match event:
            case Arrived():
                self._arrived(event.request)
            case Ended():
                for waiting in self._waiting.values():
                    waiting.pop(event.request_id, None)

    def after(self, decisions: Sequence[Decision]) -> None:
        """The scheduler answered."""
        for decision in decisions:
            if found := self._of(decision.request_id):
                found.decision, found.decided_s = decision, self._now_s

    def _arrived(self, request: Request) -> None:
        agent = None if self._wanted[0] is None else request.agent
        if (agent, request.id if agent is None else request.turn) == self._wanted:
            self._ahead = {side: len(waiting) for side, waiting in self._waiting.items()}
            self.found = Explanation(
                request, self._now_s, self._spec.alpha_tokens, self._spec.beta_tokens
            )
        for waiting in self._waiting.values():
            waiting[request.id] = None

    def fetching(self, cluster: Cluster, group: str) -> None:
        """If a DE group fetches, the global queue is drained: where does the request go?"""
        queue = _part(self._policy, DecodeQueue)
        if self.found is None or queue is None or cluster.groups[group].side is not Side.DE:
            return
        waiting = queue.waiting
        if self.found.request in waiting:
            before = waiting[: waiting.index(self.found.request)]
            self.found.drained = Drained(self._now_s, *reasons.lightest_group(cluster, before))

    def placing(self, cluster: Cluster, placement: Placement) -> None:
        """An engine is about to be booked."""
        book = cluster.engines.get(placement.engine)
        if book is None or placement.request_id not in self._waiting[book.spec.side]:
            return  # the cluster will say so
        side = book.spec.side
        if found := self._of(placement.request_id):
            if side is Side.PE:
                found.prefill = self._prefill(cluster, found, book)
            else:
                found.decode = self._decode(cluster, found, book)
        self._waiting[side].pop(placement.request_id, None)

    def reading(self, cluster: Cluster, request: Request, pe: str, de: str) -> None:
        """The read path is about to be decided."""
        if found := self._of(request.id):
            scores = self._scores(cluster, request, None)
            found.reading = reasons.reading(cluster, self._now_s, pe, de, scores)

    def _prefill(self, cluster: Cluster, found: Explanation, chosen: EngineBook) -> Choice:
        engines = self._among(cluster, chosen)
        if _part(self._policy, PrefillQueue) is None:
            return self._choice(cluster, found, chosen, reasons.prefill_books(cluster, engines), "")
        candidates, paper = reasons.prefill(cluster, engines)
        return self._choice(cluster, found, chosen, candidates, paper)

    def _decode(self, cluster: Cluster, found: Explanation, chosen: EngineBook) -> Choice:
        engines = self._among(cluster, chosen)
        queue = _part(self._policy, DecodeQueue)
        # Whoever decides by the queue has drained it by now, this request to the chosen group.
        drained = found.drained is not None and found.drained.group == chosen.group.name
        if queue is None or queue.waiting or not drained:
            found.drained = None
            needed = cluster.hbm_tokens(found.request)
            books = reasons.decode_books(engines, needed)
            return self._choice(cluster, found, chosen, books, "")
        line = (found.request, *queue.private(chosen.group.name))
        found.room = reasons.room(cluster, chosen.group, line)
        candidates, paper = reasons.decode(engines, found.request.context_tokens, found.room)
        return self._choice(cluster, found, chosen, candidates, paper)

    def _choice(
        self,
        cluster: Cluster,
        found: Explanation,
        chosen: EngineBook,
        candidates: tuple[Candidate, ...],
        paper: str,
    ) -> Choice:
        side, request = chosen.spec.side, found.request
        return Choice(
            at_s=self._now_s,
            waited_s=self._now_s - found.arrived_s,
            group=self._fetching,
            pulled=self._pulls(chosen),
            engine=chosen.name,
            ahead=self._ahead[side],
            overtaken=list(self._waiting[side]).index(request.id),
            candidates=candidates,
            paper=paper,
            scores=self._scores(cluster, request, chosen.name),
        )

    def _among(self, cluster: Cluster, chosen: EngineBook) -> list[EngineBook]:
        """Those of the group that pulls; all of the side if the request was placed unasked."""
        return list(chosen.group.engines if self._pulls(chosen) else cluster.on(chosen.spec.side))

    def _pulls(self, chosen: EngineBook) -> bool:
        return chosen.group.name == self._fetching

    def _scores(self, cluster: Cluster, request: Request, engine: str | None) -> dict[str, Any]:
        if not isinstance(self._policy, Explains):
            return {}
        said = self._policy.explain(cluster, request, engine)
        try:
            if isinstance(said, dict):
                msgspec.json.encode(said)
                return said
        except TypeError:  # it holds what no page can show
            pass
        raise SchedulerError(
            f"the policy explained request {request.id} by {said!r}; "
            "let its `explain` return a dict of names and numbers"
        )

    def _of(self, request_id: int) -> Explanation | None:
        found = self.found
        return found if found is not None and found.request.id == request_id else None


class Follower:
    """Books that follow decisions made elsewhere, by a scheduler that cannot be asked again."""

    def __init__(self, spec: ClusterSpec, observer: Observer) -> None:
        self._cluster = Cluster(spec)
        self._observer = observer

    def follow(self, event: Event, decisions: Sequence[Decision]) -> None:
        """Book what was said and decided; raises SchedulerError if it contradicts the books."""
        cluster = self._cluster
        cluster.hear(event)
        for decision in decisions:
            for engine in (decision.pe, decision.de):
                self._observer.placing(cluster, Placement(decision.request_id, engine))
                turn = cluster.place(decision.request_id, engine)
            self._observer.reading(cluster, turn.request, decision.pe, decision.de)
            path.check(cluster, turn.request, decision.reads)
            cluster.decide(decision.request_id, decision.pe, decision.de, decision.reads)


def _part(policy: object, kind: type[Part]) -> Part | None:
    """The rule that a policy is made of: whoever decides by a queue of ours holds it.

    One that lets another policy decide holds it one step further.
    """
    within = _held(policy)
    found = (part for one in ([policy], within) for whole in one for part in _held(whole))
    return next((part for part in found if isinstance(part, kind)), None)


def _held(whole: object) -> list[object]:
    return list(vars(whole).values()) if hasattr(whole, "__dict__") else []
