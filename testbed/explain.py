"""Why a request of a finished run went where it went: its scheduler's log, decided once more."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
from testbed.results.scheduler_log import NAME, read_log

REQUEST = re.compile(r"(?P<id>\d+)|(?P<agent>\d+)\.(?P<turn>\d+)")
LATER = ("first_token", "decode", "done", "failed")

Decide = Callable[[Event, Sequence[Decision]], Sequence[Decision]]


class Explained(msgspec.Struct, frozen=True):
    """What `explain --json` prints.

    `asked` tells whether the policy could be asked again; else its reasons are its own, and there
    are the books alone. `later_s` is when what follows the decision happened, in target seconds.
    `failure` is what ended the run before the request was decided, if something did.
    """

    run: str
    policy: str
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
    arrived: list[Arrived] = []
    found: Explanation | None = None
    asked, failure = True, ""
    # A scheduler that was restarted begins anew: the request was decided by one of them.
    for hello, said in terms(read_log(folder / NAME)):
        asked = not is_external(hello.policy)
        policy = _policy(hello, folder) if asked else None
        explainer = Explainer(hello.cluster, policy, request)
        decide = _follow(hello, explainer) if policy is None else _ask(hello, policy, explainer)
        failure = _decide_again(folder, said, decide, explainer, arrived)
        found = explainer.found or found
        if found and found.decision:
            break
    if found is None:
        raise InputError(f"{folder} has no request {word}; {_known(request, arrived)}")
    later_s = _later_s(folder / "events.jsonl", found.request.id)
    return Explained(str(folder.parent), folder.name, asked, found, later_s, failure)


def _decide_again(
    folder: Path, said: Iterator[Step], decide: Decide, explainer: Explainer, arrived: list[Arrived]
) -> str:
    """Play a scheduler's events until the request is decided; returns what ended the run, if so."""
    for step in said:
        if isinstance(step.event, Arrived):
            arrived.append(step.event)
        explainer.before(step.event)
        try:
            made = decide(step.event, step.recorded)
            require_same(step._replace(made=tuple(made)))
        except (SchedulerError, RunFailed) as error:
            if isinstance(error, SchedulerError) and next(said, None) is None:
                return str(error)  # what ended the run ends its replay
            raise NotReproduced(
                f"{folder}: {error}; the code of {folder.name} or of the scheduler is another one "
                "since: play it again"
            ) from error
        explainer.after(made)
        if explainer.found and explainer.found.decision:
            break
    return ""


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


def _later_s(events: Path, request: int) -> dict[str, float]:
    """What followed the decision; nothing if the run did not come so far."""
    if not events.is_file():
        return {}
    ours = f'"request":{request},'.encode()
    ends = f'"request":{request}}}'.encode()
    found: dict[str, float] = {}
    with events.open("rb") as lines:
        for line in lines:
            if ours in line or ends in line:
                said: dict[str, Any] = msgspec.json.decode(line)
                if said["event"] in LATER:
                    found[said["event"]] = said["at_s"]
    return found
