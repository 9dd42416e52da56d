"""The scheduler's host: turns messages into events, decisions into assignments.

What decides is in `scheduler/`; nothing here has an opinion.
"""

from collections.abc import Iterator

import msgspec

from engines.config import ServiceConfig
from engines.errors import EngineError
from engines.messages import Assign, Drain, Report, Submit, TurnDone, TurnFailed
from engines.seams.clock import Clock
from engines.seams.transport import Delivery, Transport
from engines.tasks import Crew
from scheduler.scheduler import Decides
from scheduler.types import Arrived, Decision, Ended, Event, Fetch, Side


class Decided(msgspec.Struct, frozen=True):
    """A decision, for the account."""

    at_s: float
    decision: Decision


class Service:
    """One scheduler, fed in order of arrival."""

    def __init__(
        self, config: ServiceConfig, clock: Clock, transport: Transport, scheduler: Decides
    ) -> None:
        self._config = config
        self._clock = clock
        self._transport = transport
        self._scheduler = scheduler
        self._turns: dict[int, Submit] = {}
        self.decided: list[Decided] = []
        self.ended: dict[str, int] = {}

    async def run(self) -> None:
        """Serve until drained."""
        async with Crew() as self._tasks:
            self._tasks.start(self._transport.serve(self._act))

    def _act(self, delivery: Delivery) -> None:
        if isinstance(delivery.message, Drain):
            return self._tasks.dismiss()
        for decision in self._scheduler.handle(self._event(delivery.message)):
            self._dispatch(decision)

    def waits(self) -> Iterator[str]:
        """Turns that the policy has not decided, in words."""
        decided = {entry.decision.request_id for entry in self.decided}
        for request in self._turns:
            if request not in decided:
                yield f"turn {request} for the policy's decision"

    def _event(self, message: object) -> Event:
        now_s = self._clock.now_s()
        match message:
            case Submit():
                self._turns[message.request.id] = message
                return Arrived(now_s, message.request)
            case Report():
                return Fetch(now_s, message.group, message.engines, message.nodes)
            case TurnDone():
                return self._end(message.request, "done")
            case TurnFailed():
                return self._end(message.request, message.reason)
            case other:
                raise EngineError(f"the scheduler cannot use {type(other).__name__}")

    def _end(self, request: int, reason: str) -> Ended:
        self.ended[reason] = self.ended.get(reason, 0) + 1
        self._turns.pop(request, None)
        return Ended(self._clock.now_s(), request, reason)

    def _dispatch(self, decision: Decision) -> None:
        """To both engines and every buffer that has a part; each sees its decisions in order."""
        self.decided.append(Decided(self._clock.now_s(), decision))
        assign = Assign(decision, self._turns[decision.request_id])
        hosts = [
            self._config.engine_hosts[decision.pe],
            self._config.engine_hosts[decision.de],
            self._config.buffers[decision.de.split("/")[0]],
        ]
        if any(read.side is Side.PE for read in decision.reads):
            hosts.append(self._config.buffers[decision.pe.split("/")[0]])
        for host in hosts:
            self._transport.post(host, assign)
