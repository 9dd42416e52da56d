"""What a host takes from a scheduler, and what it tells the next one."""

from engines.messages import Assign, Holds, Submit
from engines.terms import Terms
from scheduler.types import Decision, Request


def assign(request: int, agent: int = 0, term: int = 1, seq: int = 1) -> Assign:
    turn = Submit(Request(request, agent, 0, 20, 8, 4), b"")
    return Assign(Decision(seq, request, "pe0/0", "de0/0", ()), turn, term)


def test_an_assignment_is_taken_once_and_in_its_term_alone() -> None:
    terms = Terms()
    assert terms.take(assign(1, seq=4)) and terms.seen == 4
    assert not terms.take(assign(1, seq=4))
    terms.begin(2, {1})
    assert (terms.term, terms.seen) == (2, 0)
    # What an earlier scheduler sent comes late; what a later one sends cannot come early.
    assert not terms.take(assign(2, term=1, seq=9)) and terms.seen == 0
    assert not terms.take(assign(1, term=2, seq=1))
    assert terms.take(assign(2, term=2, seq=2)) and terms.seen == 2


def test_a_new_scheduler_hears_what_is_here_what_is_through_and_what_is_over() -> None:
    terms = Terms()
    given = [assign(number, agent=number, seq=number) for number in (1, 2, 3, 4)]
    assert all(terms.take(one) for one in given)
    assert not terms.take(assign(9, agent=9, term=3))
    holds = terms.begin(2, live={1, 4, 9}, ended={3, 4})
    assert holds == Holds(2, (given[0].decision, given[3].decision), (2, 3), (3, 4))


def test_where_turns_end_what_is_through_is_over() -> None:
    terms = Terms()
    terms.take(assign(1))
    assert terms.begin(2, live=()) == Holds(2, (), (1,), (1,))


def test_of_an_agent_only_the_newest_turn_is_remembered() -> None:
    terms = Terms()
    for number in (1, 2, 3):
        terms.take(assign(number, agent=5, seq=number))
    assert terms.begin(2, live=()) == Holds(2, (), (3,), (3,))


def test_a_term_that_is_over_is_not_begun_again() -> None:
    terms = Terms()
    assert terms.begin(3, ()) is not None
    assert terms.begin(2, ()) is None and terms.begin(3, ()) is None
    assert terms.term == 3
