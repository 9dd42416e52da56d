"""The scheduler's host: turns messages into events, decisions into assignments.

What decides is in `scheduler/`; nothing here has an opinion.
"""

from collections.abc import Callable, Iterator

import msgspec

from engines.config import ServiceConfig
from engines.errors import EngineError
from engines.messages import (
    Assign,
    Drain,
    Holds,
    NewTerm,
    Report,
    Resubmitted,
    Submit,
    TurnDone,
    TurnFailed,
)
from engines.seams.clock import Clock
from engines.seams.transport import Delivery, Transport
from engines.takeover import Takeover
from engines.tasks import Crew
from scheduler.scheduler import Decides
from scheduler.types import Arrived, Decision, Ended, Event, Fetch


class Decided(msgspec.Struct, frozen=True):
    """A decision, for the account."""

    at_s: float
    decision: Decision
    term: int = 1


class Restart(msgspec.Struct):
    """One loss of all that the scheduler knew, for the account, in target seconds.

    Nothing was decided between `lost_s` and `resumed_s`. Of the turns that had not ended,
    `taken_over` were assigned and stayed so (for `repeated` assignments a host had not got its
    part); `undecided` nobody had.
    """

    term: int
    lost_s: float
    resumed_s: float = 0.0
    taken_over: int = 0
    repeated: int = 0
    undecided: int = 0


class Service:
    """One scheduler, fed in order of arrival; `make` makes it, and the next after each restart."""

    def __init__(
        self,
        config: ServiceConfig,
        clock: Clock,
        transport: Transport,
        make: Callable[[], Decides],
    ) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._make = make
        # The number of the term is all that outlives a restart.
        self._term = 1
        self._scheduler = make()
        self._turns: dict[int, Submit] = {}
        self._takeover: Takeover | None = None
        self.decided: list[Decided] = []
        self.ended: dict[str, int] = {}
        self.restarts: list[Restart] = []

    async def run(self) -> None:
        """Serve until drained."""
        async with Crew() as self._tasks:
            self._tasks.start(self._transport.serve(self._act))
            if self._config.restarts_s:
                self._tasks.start(self._restart_in_time())
        self._resume_account()

    async def _restart_in_time(self) -> None:
        for at_s in self._config.restarts_s:
            await self._clock.sleep_until_s(at_s)
            self.restart()

    def restart(self) -> None:
        """Lose everything but the term's number, and ask everybody for what there is."""
        self._resume_account()
        self.restarts.append(Restart(self._term + 1, self._clock.now_s()))
        self._announce()

    def waits(self) -> Iterator[str]:
        """Turns that the policy has not decided, or what a new term lacks, in words."""
        if self._takeover is not None:
            yield from self._takeover.waits()
        decided = {e.decision.request_id for e in self.decided if e.term == self._term}
        for request in self._turns:
            if request not in decided:
                yield f"turn {request} for the policy's decision"

    def _act(self, delivery: Delivery) -> None:
        if self._takeover is not None:
            return self._hear(self._takeover, delivery)
        match delivery.message:  # the most frequent first
            case Report() as report:
                if report.term == self._term:
                    self._fetch(report)
            case Submit() as turn:
                self._arrive(turn)
            case TurnDone() | TurnFailed() as end:
                reason = self._count(end)
                # Of what another term decided the scheduler knows by reports alone.
                if self._turns.pop(end.request, None) is not None:
                    self._handle(Ended(self._clock.now_s(), end.request, reason))
            case Drain():
                self._tasks.dismiss()
            case Holds(term) | Resubmitted(term) if term < self._term:
                pass
            case other:
                raise EngineError(f"the scheduler cannot use {type(other).__name__}")

    def _fetch(self, report: Report) -> None:
        self._handle(Fetch(self._clock.now_s(), report.group, report.engines, report.nodes))

    def _arrive(self, turn: Submit) -> None:
        self._turns[turn.request.id] = turn
        self._handle(Arrived(self._clock.now_s(), turn.request))

    def _count(self, end: TurnDone | TurnFailed) -> str:
        """Why a turn ended, for the account too."""
        reason = end.reason if isinstance(end, TurnFailed) else "done"
        self.ended[reason] = self.ended.get(reason, 0) + 1
        return reason

    def _handle(self, event: Event) -> None:
        for decision in self._scheduler.handle(event):
            self._dispatch(decision)

    def _dispatch(self, decision: Decision) -> None:
        """To both engines and every buffer that has a part; each sees its decisions in order."""
        self.decided.append(Decided(self._clock.now_s(), decision, self._term))
        assign = Assign(decision, self._turns[decision.request_id], self._term)
        for host in self._config.hosts_of(decision):
            self._transport.post(host, assign)

    def _announce(self) -> None:
        """Begin a term."""
        self._term += 1
        self._turns = {}
        self._takeover = Takeover(self._term, self._config)
        for host in (*self._config.hosts, self._config.client):
            self._transport.post(host, NewTerm(self._term))

    def _hear(self, takeover: Takeover, delivery: Delivery) -> None:
        match delivery.message:
            case Drain():
                return self._tasks.dismiss()
            case TurnDone() | TurnFailed() as end:
                self._count(end)
        takeover.hear(delivery.sender, delivery.message)
        if not takeover.complete:
            return
        repeats = list(takeover.lacking())
        self.restarts[-1].repeated += len(repeats)
        for host, assign in repeats:
            self._transport.post(host, assign)
        if repeats:
            # Another term, whose reports include what was repeated: books begin with reports alone.
            return self._announce()
        self._resume(takeover)

    def _resume(self, takeover: Takeover) -> None:
        """Decide again: on the books that the reports make, and what nobody has."""
        self._takeover, self._scheduler = None, self._make()
        for report in takeover.reports:
            self._fetch(report)
        undecided = takeover.undecided
        restart = self.restarts[-1]
        restart.taken_over, restart.undecided = len(takeover.taken_over), len(undecided)
        restart.resumed_s = self._clock.now_s()
        for turn in undecided:
            self._arrive(turn)

    def _resume_account(self) -> None:
        """A restart that another one, or the end, overtook was away until then."""
        if self._takeover is not None:
            self.restarts[-1].resumed_s = self._clock.now_s()
