"""What a scheduler that knows nothing hears until it may decide again.

Every host says which turns it has, the clients submit again what has not ended, and every group
reports under the new term. docs/scheduling.md says why no turn is lost then and none runs twice.
"""

from collections.abc import Iterator

from engines.config import ServiceConfig
from engines.errors import EngineError
from engines.messages import (
    Assign,
    Holds,
    Message,
    Report,
    Resubmitted,
    Submit,
    TurnDone,
    TurnFailed,
)
from scheduler.types import Decision


class Takeover:
    """The beginning of one term."""

    def __init__(self, term: int, config: ServiceConfig) -> None:
        self.term = term
        self._config = config
        self._silent = dict.fromkeys(config.hosts)
        self._unheard = dict.fromkeys(engine.group for engine in config.cluster.engines)
        self._clients_through = False
        self._reports: dict[str, Report] = {}
        self._submitted: dict[int, Submit] = {}
        self._decisions: dict[int, Decision] = {}  # of every turn that some host has
        self._had: dict[str, frozenset[int]] = {}  # by host: what need not be sent there again
        self._ended: set[int] = set()

    def hear(self, sender: str, message: Message) -> None:
        """Note what somebody says; whatever is of an earlier term is over."""
        match message:
            case Submit():
                # The order is that of the last time: clients submit again in their order.
                self._submitted.pop(message.request.id, None)
                self._submitted[message.request.id] = message
            case TurnDone(request) | TurnFailed(request):
                self._ended.add(request)
            case Report() if message.term == self.term:
                self._reports[message.group] = message
                self._unheard.pop(message.group, None)
            case Holds() if message.term == self.term:
                self._hold(sender, message)
            case Resubmitted(term):
                self._clients_through |= term == self.term
            case Report() | Holds():
                pass
            case other:
                raise EngineError(f"the scheduler cannot use {type(other).__name__}")

    def _hold(self, host: str, holds: Holds) -> None:
        self._silent.pop(host, None)
        self._ended.update(holds.ended)
        self._had[host] = frozenset((*(d.request_id for d in holds.held), *holds.through))
        for decision in holds.held:
            known = self._decisions.setdefault(decision.request_id, decision)
            if known != decision:
                raise EngineError(
                    f"{host} has turn {decision.request_id} as {decision}, and another host as "
                    f"{known}; a decision of an earlier term was taken after a later one"
                )

    @property
    def complete(self) -> bool:
        """Whether everybody has said what a decision rests on."""
        return self._clients_through and not self._silent and not self._unheard

    @property
    def reports(self) -> list[Report]:
        """Each group's newest."""
        return list(self._reports.values())

    @property
    def taken_over(self) -> list[Submit]:
        """Turns that some host has; they stay where they are."""
        return [turn for number, turn in self._live() if number in self._decisions]

    @property
    def undecided(self) -> list[Submit]:
        """Turns that nobody has, in the order of their submission."""
        return [turn for number, turn in self._live() if number not in self._decisions]

    def lacking(self) -> Iterator[tuple[str, Assign]]:
        """What some hosts of a turn have and others never got."""
        for turn in self.taken_over:
            decision = self._decisions[turn.request.id]
            for host in self._config.hosts_of(decision):
                if decision.request_id not in self._had[host]:
                    yield host, Assign(decision, turn, self.term)

    def waits(self) -> Iterator[str]:
        """Whose word is missing, in words."""
        for host in self._silent:
            yield f"{host} to say what it holds in term {self.term}"
        for group in self._unheard:
            yield f"group {group} to report in term {self.term}"
        if not self._clients_through:
            yield f"{self._config.client} to submit again in term {self.term}"

    def _live(self) -> Iterator[tuple[int, Submit]]:
        return ((n, turn) for n, turn in self._submitted.items() if n not in self._ended)
