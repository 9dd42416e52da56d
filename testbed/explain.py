"""Why a request of a finished run went where it went: its scheduler's log, decided once more."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from scheduler.errors import SchedulerError
from scheduler.explain import Explainer, Follower
from scheduler.lookup import file_of, lookup
from scheduler.policy import Policy
from scheduler.protocol import Hello
from scheduler.reasons import Explanation
from scheduler.scheduler import Scheduler
from scheduler.types import Arrived, Decision, Event
from testbed.decide import Step, require_same, terms
from testbed.errors import InputError, NotReproduced, RunFailed
from testbed.external.scheduler import is_external
from testbed.results.events import EVENTS, later_of
from testbed.results.scheduler_log import NAME, read_log

REQUEST = re.compile(r"(?P<id>\d+)|(?P<agent>\d+)\.(?P<turn>\d+)")

Decide = Callable[[Event, Sequence[Decision]], Sequence[Decision]]


class Explained(msgspec.Struct, frozen=True):
    """What `explain --json` prints.

    `term` counts from 1, one more for each restart of the scheduler before the decision. `asked`
    tells whether the policy could be asked again; else its reasons are its own, and there are the
    books alone. `later_s` is when what follows the decision happened, in target seconds. `failure`
    is what ended the run before the request was decided, if something did.
    """

    run: str
    policy: str
    term: int
    asked: bool
    why: Explanation
    later_s: dict[str, float]
    failure: str = ""


def wanted(word: str) -> tuple[int | None, int]:
    """`17` is a request's number, `5.2` turn 2 of agent 5; raises InputError."""
    found = REQUEST.fullmatch(word)
    if not found:
        raise InputError(
            f"request {word!r}: is neither a number, as 17, nor an agent and its turn, as 5.2"
        )
    if found["id"]:
        return None, int(found["id"])
    return int(found["agent"]), int(found["turn"])


def explain(folder: Path, word: str) -> Explained:
    """The request of the run in a policy's folder.

    Raises InputError if it has no such request; NotReproduced if it is not decided as it was.
    """
    request = wanted(word)
    found: Explained | None = None
    arrived: list[Arrived] = []
    logged = terms(read_log(folder / NAME))
    for number, (hello, steps) in enumerate(logged, 1):
        term = _Term(hello, folder, request)
        for step in steps:
            if isinstance(step.event, Arrived):
                arrived.append(step.event)
            if term.take(step):
                break
            if term.failure:
                if any(later.recorded for later in steps) or next(logged, None) is not None:
                    raise NotReproduced(_since(folder, term.failure))
                break  # here the run ended; events of the same instant may follow
        if term.found is not None:  # else what an earlier term knew of it
            asked = term.policy is not None
            found = Explained(
                str(folder.parent), folder.name, number, asked, term.found, {}, term.failure
            )
        if term.decided:
            break
    if found is None:
        raise InputError(f"{folder} has no request {word}; {_known(request, arrived)}")
    later_s = later_of(folder / EVENTS, found.why.request.id)
    return msgspec.structs.replace(found, later_s=later_s)


class _Term:
    """One scheduler of the run, from its `hello` on: a restarted one knows nothing of before."""

    def __init__(self, hello: Hello, folder: Path, request: tuple[int | None, int]) -> None:
        self._folder = folder
        self.policy = None if is_external(hello.policy) else _policy(hello, folder)
        self._explainer = Explainer(hello.cluster, self.policy, request)
        if self.policy is None:
            self._decide = _follow(hello, self._explainer)
        else:
            self._decide = _ask(hello, self.policy, self._explainer)
        self.failure = ""

    @property
    def found(self) -> Explanation | None:
        """What is known of the request by now."""
        return self._explainer.found

    @property
    def decided(self) -> bool:
        """Whether there is nothing more to know."""
        return self.found is not None and self.found.decision is not None

    def take(self, step: Step) -> bool:
        """Whether the step decided the request; NotReproduced if it does not decide as it did.

        What raises is kept as `failure`: in the last step of a run it is what ended it.
        """
        self._explainer.before(step.event)
        try:
            made = self._decide(step.event, step.recorded)
        except SchedulerError as error:
            self.failure = str(error)
            return False
        try:
            require_same(step._replace(made=tuple(made)))
        except RunFailed as error:
            raise NotReproduced(_since(self._folder, str(error))) from error
        self._explainer.after(made)
        return self.decided


def _since(folder: Path, what: str) -> str:
    return (
        f"{folder}: {what}; the code of {folder.name} or of the scheduler is another one since, or "
        "it decides by chance: play it again"
    )


def _policy(hello: Hello, folder: Path) -> Policy:
    """The run's; a policy of a file is that of the copy in the run's folder, wherever it is now."""
    word = hello.policy
    if of_file := file_of(word):
        word = f"{folder / of_file[0].name}:{of_file[1]}"
    try:
        return lookup(word, **hello.knobs)
    except SchedulerError as error:
        raise NotReproduced(f"{folder}: its policy cannot be asked again: {error}") from error


def _ask(hello: Hello, policy: Policy, explainer: Explainer) -> Decide:
    scheduler = Scheduler(hello.cluster, policy, explainer)
    return lambda event, _: scheduler.handle(event)


def _follow(hello: Hello, explainer: Explainer) -> Decide:
    follower = Follower(hello.cluster, explainer)

    def decide(event: Event, recorded: Sequence[Decision]) -> Sequence[Decision]:
        follower.follow(event, recorded)
        return recorded

    return decide


def _known(request: tuple[int | None, int], arrived: Sequence[Arrived]) -> str:
    if not arrived:
        return "none arrived"
    agent = request[0]
    if agent is None:
        numbers = [event.request.id for event in arrived]
        return f"it has {min(numbers)} to {max(numbers)}"
    turns = [event.request.turn for event in arrived if event.request.agent == agent]
    if turns:
        return f"agent {agent} has turns {min(turns)} to {max(turns)}"
    agents = [event.request.agent for event in arrived]
    return f"it has agents {min(agents)} to {max(agents)}"
