"""What is said of a decision is what decided it, and looking changes nothing."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_scheduler import LiteralScheduler
from msgspec.structs import replace
from test_scheduler_literal import HOW, SPECS, Step, cluster, fetch, steps

from scheduler.cluster import Cluster
from scheduler.errors import SchedulerError
from scheduler.explain import Explainer, Follower
from scheduler.lookup import lookup
from scheduler.policies.dualpath import DualPath
from scheduler.policy import Placement
from scheduler.reasons import Explanation
from scheduler.scheduler import Scheduler
from scheduler.types import (
    Arrived,
    ClusterSpec,
    Decision,
    Ended,
    EngineReport,
    Event,
    Fetch,
    NodeReport,
    Request,
    Side,
)

Said = list[tuple[Event, list[Decision]]]


def told(policy: str, spec: ClusterSpec, story: list[Step]) -> Said:
    """A story's events, each with what it decided."""
    scheduler, literal = Scheduler(spec, lookup(policy)), LiteralScheduler(spec, HOW[policy])
    said: Said = []
    for number, step in enumerate(story):
        event: Event
        match step:
            case (int(blocks), int(rest), int(generate)):
                turn = Request(number, 7, number, 64 * blocks + rest, 64 * blocks, generate)
                event = Arrived(float(number), turn)
            case ("fetch", int(seed)):
                decided = sum(len(decisions) for _, decisions in said)
                event = fetch(spec, seed, decided, float(number))
            case ("end", int(seed)):
                live = list(literal.turns)
                event = Ended(float(number), live[seed % len(live)] if live else 0)
            case _:
                raise AssertionError(step)
        literal.handle(event)
        said.append((event, scheduler.handle(event)))
    return said


def explained(policy: str, spec: ClusterSpec, said: Said, request: int) -> Explanation:
    """The request's explanation; every decision is as it was without an observer."""
    made = lookup(policy)
    explainer = Explainer(spec, made, (None, request))
    scheduler = Scheduler(spec, made, explainer)
    for event, decisions in said:
        explainer.before(event)
        assert scheduler.handle(event) == decisions
        explainer.after(decisions)
    assert explainer.found is not None
    return explainer.found


@pytest.mark.parametrize("policy", HOW)
@given(st.sampled_from(SPECS), steps, st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_the_rules_in_words_take_what_was_taken(
    policy: str, spec: ClusterSpec, story: list[Step], pick: int
) -> None:
    said = told(policy, spec, story)
    decided = [decision for _, decisions in said for decision in decisions]
    if not decided:
        return
    decision = decided[pick % len(decided)]
    found = explained(policy, spec, said, decision.request_id)
    assert found.decision == decision
    assert found.prefill is not None and found.decode is not None and found.reading is not None
    assert (found.prefill.engine, found.decode.engine) == (decision.pe, decision.de)
    if not isinstance(lookup(policy), DualPath):  # it has no queue
        assert found.drained is None and found.room is None
        assert found.prefill.paper == found.decode.paper == found.prefill.group == ""
        return
    assert (found.prefill.paper, found.decode.paper) == (decision.pe, decision.de)
    assert found.drained is not None and found.drained.group == found.decode.group
    assert found.room is not None and found.room.fitting[0] == decision.request_id
    assert found.prefill.overtaken == 0 <= found.prefill.ahead
    for choice in (found.prefill, found.decode):
        assert [c.name for c in choice.candidates if not c.why_not] == [choice.engine]
    if policy == "dualpath" and decision.reads:
        assert decision.reads[0].side is found.reading.paper


ONE = cluster({"pg0": ["p0", "p1"], "pg1": ["p2"], "dg0": ["d0"], "dg1": ["d1"]})


def report(engine: str, requests: int, tokens: int, free: int = 4_096) -> EngineReport:
    return EngineReport(engine, requests, tokens, free, 0)


def story_of_one() -> list[Event]:
    """Request 5 waits behind request 4 for both sides; alpha is 900 and beta 1,500 tokens."""
    first, ours = Request(4, 0, 0, 640, 0, 100), Request(5, 1, 0, 704, 640, 56)
    pes = (report("p0/0", 1, 700), report("p0/1", 2, 1_600), report("p1/0", 0, 100),
           report("p1/1", 0, 20))  # fmt: skip
    queues = (NodeReport("p0", 0, 0), NodeReport("p1", 901, 0))
    return [
        Fetch(0.5, "dg1", (report("d1/0", 1, 640),), ()),
        Arrived(1.0, first),
        Arrived(2.0, ours),
        Fetch(3.0, "dg0", (report("d0/0", 0, 0), report("d0/1", 0, 0, 600)), ()),
        Fetch(4.0, "pg0", pes, queues),
        Fetch(5.0, "dg1", (), (NodeReport("d1", 300, 0),)),
    ]


def explain_events(policy: Any, events: list[Event], wanted: tuple[int | None, int]) -> Explanation:
    explainer = Explainer(ONE, policy, wanted)
    scheduler = Scheduler(ONE, policy, explainer)
    for event in events:
        explainer.before(event)
        explainer.after(scheduler.handle(event))
    assert explainer.found is not None
    return explainer.found


def test_a_prefill_choice_by_hand() -> None:
    found = explain_events(DualPath(), story_of_one(), (None, 5))
    choice = found.prefill
    assert choice is not None
    assert (choice.at_s, choice.waited_s, choice.group) == (4.0, 2.0, "pg0")
    assert (choice.ahead, choice.overtaken) == (1, 0)
    # Request 4 went to p0/0, the only one of C2, and filled it up to 1,340 tokens.
    assert [(c.name, c.set, c.tokens, c.why_not) for c in choice.candidates] == [
        ("p0/0", "C2", 1_340, ""),
        ("p1/1", "C3", 20, "its node's read_q is above alpha"),
        ("p1/0", "C3", 100, "its node's read_q is above alpha"),
        ("p0/1", "C1", 1_600, "overloaded: tok_e is above beta"),
    ]


def test_a_decode_choice_by_hand() -> None:
    found = explain_events(DualPath(), story_of_one(), (None, 5))
    # Request 4 (740 tokens) was drained before it, to dg0, which was empty.
    assert found.drained is not None
    assert (found.drained.at_s, found.drained.group) == (3.0, "dg1")
    assert found.drained.loads == {"dg0": 740, "dg1": 640}
    choice, numbers = found.decode, found.room
    assert choice is not None and numbers is not None
    assert (choice.at_s, choice.ahead, choice.engine) == (5.0, 1, "d1/1")
    assert numbers.needed_tokens == 768 and numbers.fitting == (5,)
    assert numbers.high_tokens == pytest.approx(1.05 * (760 + 640) / 2)
    # 760 tokens would lift either above Z = 735: the one with fewer tokens is taken.
    assert [(c.name, c.set, c.why_not) for c in choice.candidates] == [
        ("d1/1", "high", ""), ("d1/0", "high", "tok_e is higher"),
    ]  # fmt: skip


def test_a_read_path_by_hand() -> None:
    found = explain_events(DualPath(), story_of_one(), (None, 5))
    reading, decision = found.reading, found.decision
    assert reading is not None and decision is not None and found.decided_s == 5.0
    assert (reading.pe.node, reading.pe.read_queue_tokens) == ("p0", 0)
    assert (reading.de.node, reading.de.read_queue_tokens) == ("d1", 300)
    assert reading.paper is Side.PE is decision.reads[0].side
    assert (reading.pe.left_tokens, reading.pe.counted_s, reading.pe.read_tokens) == (0, 4.0, 0)
    assert (reading.de.left_tokens, reading.de.counted_s, reading.de.read_tokens) == (300, 5.0, 0)
    assert reading.why == "the PE's node should have less left to read"


def test_a_tie_of_read_queues_by_hand() -> None:
    """300 tokens a second are read, so nothing is left of the DE's queue after another second."""
    events = story_of_one()
    late = [*events[:3], Fetch(3.0, "dg1", (), (NodeReport("d1", 300, 0),)), *events[3:5]]
    reading = explain_events(DualPath(), [*late, replace(events[-1], nodes=())], (None, 5)).reading
    assert reading is not None and reading.at_s == 4.0
    assert (reading.pe.left_tokens, reading.de.left_tokens) == (0, 0)
    assert (reading.paper, reading.why) == (Side.PE, "equal, and given as much to read so far")


def test_a_request_by_its_agent_and_turn_and_one_that_is_not_decided() -> None:
    events = story_of_one()[:4]
    found = explain_events(DualPath(), events, (1, 0))
    assert found.request.id == 5
    assert found.drained is not None and found.prefill is found.decode is found.decision is None


class Scoring(DualPath):
    """Says why, and reads on the longer queue."""

    def explain(self, cluster: Cluster, request: Request, engine: str | None) -> dict[str, Any]:
        return {"asked": engine, "live": request.id}

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> Any:
        found = super().reads(cluster, request, pe, de)
        return tuple(type(read)(Side.DE, read.first, read.count) for read in found)


def test_a_policy_adds_its_own_scores_and_the_papers_rule_stands_beside() -> None:
    found = explain_events(Scoring(), story_of_one(), (None, 5))
    assert found.prefill and found.decode and found.reading and found.decision
    assert found.prefill.scores == {"asked": "p0/0", "live": 5}
    assert found.decode.scores == {"asked": "d1/1", "live": 5}
    assert found.reading.scores == {"asked": None, "live": 5}
    assert found.reading.paper is Side.PE and found.decision.reads[0].side is Side.DE


class Wrapping:
    """Lets another policy decide."""

    traits = DualPath.traits

    def __init__(self) -> None:
        self.places = DualPath()

    def __getattr__(self, word: str) -> Any:
        return getattr(self.places, word)


def test_the_queues_of_a_policy_within_a_policy_are_found() -> None:
    story = story_of_one()
    assert explain_events(Wrapping(), story, (None, 5)) == explain_events(
        DualPath(), story, (None, 5)
    )


class OwnDecode(DualPath):
    """Has the queue, and a rule of its own: the last engine of whoever fetches."""

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        if cluster.groups[group].side is Side.PE:
            yield from super().fetch(cluster, group)
            return
        for request in self._decode.waiting:
            self._decode.drop(request.id)
            yield Placement(request.id, cluster.groups[group].engines[-1].name)


def test_a_queue_that_does_not_decide_gives_no_reasons() -> None:
    found = explain_events(OwnDecode(), story_of_one(), (None, 5))
    assert found.decode is not None and found.decode.engine == "d0/1"
    assert found.decode.paper == "" and found.room is None and found.drained is None
    assert [c.why_not for c in found.decode.candidates] == ["", ""]
    assert found.prefill is not None and found.prefill.paper == "p0/0"


def test_scores_that_are_no_dict_are_refused() -> None:
    class Wordy(DualPath):
        def explain(self, *_: Any) -> Any:
            return "because"

    with pytest.raises(SchedulerError, match="explained request 5 by 'because'"):
        explain_events(Wordy(), story_of_one(), (None, 5))


@given(st.sampled_from(SPECS), steps, st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_books_follow_decisions_of_elsewhere(
    spec: ClusterSpec, story: list[Step], pick: int
) -> None:
    """The same numbers of the read queues, which hang on every decision, and no reasons."""
    said = told("dualpath", spec, story)
    decided = [decision for _, decisions in said for decision in decisions]
    if not decided:
        return
    decision = decided[pick % len(decided)]
    explainer = Explainer(spec, None, (None, decision.request_id))
    follower = Follower(spec, explainer)
    for event, decisions in said:
        explainer.before(event)
        follower.follow(event, decisions)
        explainer.after(decisions)
    ours, theirs = explainer.found, explained("dualpath", spec, said, decision.request_id)
    assert ours is not None and ours.decision == decision == theirs.decision
    assert ours.prefill and ours.decode and ours.prefill.paper == ours.decode.paper == ""
    assert (ours.prefill.engine, ours.decode.engine) == (decision.pe, decision.de)
    assert ours.decided_s == theirs.decided_s and ours.room is ours.drained is None
