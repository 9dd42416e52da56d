"""What a host remembers of the scheduler: its term, and the newest turn of each agent.

A scheduler that was restarted knows nothing and begins a term of its own. A host that has heard of
it refuses whatever an earlier term still sends: what the host holds then can only become less,
until the new term adds to it. docs/scheduling.md says why that is enough.
"""

from collections.abc import Container

from engines.messages import Assign, Holds
from scheduler.types import Decision


class Terms:
    """Which assignments a host may take, and what it tells a new scheduler.

    `seen` is the last decision of the term that arrived. An agent submits a turn when its last one
    has ended, so one turn of each agent is all that a new scheduler can ask about.
    """

    def __init__(self) -> None:
        self.term = 1
        self.seen = 0
        self._newest: dict[int, Decision] = {}

    def take(self, assign: Assign) -> bool:
        """Whether to begin an assignment: it is of this term, and the turn was not here before."""
        if assign.term != self.term:
            return False
        agent, decision = assign.turn.request.agent, assign.decision
        self.seen = decision.seq
        newest = self._newest.get(agent)
        self._newest[agent] = decision
        return newest is None or newest.request_id != decision.request_id

    def begin(
        self, term: int, live: Container[int], ended: Container[int] | None = None
    ) -> Holds | None:
        """Enter a term; the answer to who announced it, or None if that one is over itself.

        `live` are the turns that the host has; `ended` are over as a whole, even if some of them
        are still being cleared away (None: all that are not live).
        """
        if term <= self.term:
            return None
        self.term, self.seen = term, 0
        newest = self._newest.values()
        held = tuple(decision for decision in newest if decision.request_id in live)
        through = tuple(d.request_id for d in newest if d.request_id not in live)
        if ended is None:
            return Holds(term, held, through, through)
        return Holds(
            term, held, through, tuple(d.request_id for d in newest if d.request_id in ended)
        )
