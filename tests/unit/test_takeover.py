"""A scheduler that was restarted: whom it asks, what it waits for, and what it does then."""

from collections.abc import Callable

import pytest
from fakes import FakeClock, FakeTransport, Network, play

from engines.config import ServiceConfig
from engines.errors import EngineError
from engines.messages import (
    Assign,
    Holds,
    Message,
    NewTerm,
    Report,
    Resubmitted,
    Submit,
    TurnDone,
    TurnFailed,
)
from engines.seams.transport import Delivery
from engines.service import Service
from scheduler.lookup import lookup
from scheduler.scheduler import Scheduler
from scheduler.types import (
    ClusterSpec,
    Decision,
    EngineReport,
    EngineSpec,
    NodeReport,
    ReadExtent,
    Request,
    Side,
)

SPEC = ClusterSpec(
    (
        EngineSpec("pe0/0", Side.PE, "pe0", "pg", 10_000),
        EngineSpec("de0/0", Side.DE, "de0", "dg", 10_000),
    ),
    block_tokens=4,
    alpha_tokens=5_000,
    beta_tokens=5_000,
)
HOSTS = ("pe0-gpu", "de0-gpu", "de0-buf", "pe0-buf")
CONFIG = ServiceConfig(
    "sched", SPEC, "basic", {"pe0/0": "pe0-gpu", "de0/0": "de0-gpu"},
    {"pe0": "pe0-buf", "de0": "de0-buf"},
)  # fmt: skip
Said = tuple[str, Message]


def submit(number: int) -> Submit:
    return Submit(Request(number, number, 0, 20, 8, 4, (), number), b"abcde")


def decision(number: int, seq: int = 1) -> Decision:
    return Decision(seq, number, "pe0/0", "de0/0", (ReadExtent(Side.PE, 0, 2),))


def holds(
    *held: int, through: tuple[int, ...] = (), ended: tuple[int, ...] = (), term: int = 2
) -> Holds:
    return Holds(term, tuple(map(decision, held)), through, ended)


def reports(term: int, tokens: int = 0) -> list[Said]:
    """Both groups' fetches; `tokens` is what every engine and node holds."""
    return [
        ("pe0-gpu", Report("pg", (EngineReport("pe0/0", 1, tokens, 9_000, 0),),
                           (NodeReport("pe0", tokens, 0),), term)),
        ("de0-gpu", Report("dg", (EngineReport("de0/0", 1, tokens, 9_000, 0),),
                           (NodeReport("de0", tokens, 0),), term)),
    ]  # fmt: skip


def nothing_held(term: int = 2) -> list[Said]:
    return [(host, holds(term=term)) for host in HOSTS]


def clients(*turns: Submit, term: int = 2) -> list[Said]:
    return [("agents", message) for message in (*turns, Resubmitted(term))]


def restarted(
    *said: Said, before: tuple[Message, ...] = (), then: Callable[[Service], None] | None = None
) -> tuple[Service, Network]:
    """A service that hears `before`, loses it, and hears what is said; `then` looks at it."""
    network = Network()
    found: list[Service] = []

    async def whole() -> None:
        transport = FakeTransport("sched", network)
        service = Service(
            CONFIG, FakeClock(), transport, lambda: Scheduler(SPEC, lookup(CONFIG.policy))
        )
        found.append(service)
        for message in before:
            service._act(delivery("agents", message))
        network.log.clear()
        service.restart()
        for sender, message in said:
            service._act(delivery(sender, message))
        if then is not None:
            then(service)

    play(whole)
    return found[0], network


def delivery(sender: str, message: Message) -> Delivery:
    return Delivery(sender, message, 0.0)


def assigned(network: Network) -> list[tuple[str, int, int]]:
    """Host, turn and term of every assignment."""
    return [
        (sent.peer, sent.message.decision.request_id, sent.message.term)
        for sent in network.messages(Assign)
        if isinstance(sent.message, Assign)
    ]


EVERYWHERE = ("pe0-gpu", "de0-gpu", "de0-buf", "pe0-buf")


def test_every_host_and_the_clients_hear_of_the_new_term() -> None:
    _, network = restarted()
    assert [sent.peer for sent in network.log] == [*HOSTS[:2], "pe0-buf", "de0-buf", "agents"]
    assert {sent.message for sent in network.log} == {NewTerm(2)}


@pytest.mark.parametrize("missing", range(7))
def test_nothing_is_decided_before_everybody_has_spoken(missing: int) -> None:
    voices: list[Said] = [*nothing_held(), *reports(2), ("agents", Resubmitted(2))]
    left_out = voices.pop(missing)
    said: list[Said] = [("agents", submit(1)), *voices]
    service, network = restarted(*said)
    assert assigned(network) == []
    assert len(list(service.waits())) == 1 and "in term 2" in next(service.waits())
    service, network = restarted(*said, left_out)
    assert assigned(network) == [(host, 1, 2) for host in EVERYWHERE]
    assert list(service.waits()) == []


def test_what_is_of_an_earlier_term_counts_for_nothing() -> None:
    said = [*nothing_held(1), *reports(1), *clients(submit(1), term=1)]
    service, network = restarted(*said, *nothing_held(), *reports(2))
    assert assigned(network) == [] and len(list(service.waits())) == 1


def test_a_turn_that_everybody_has_stays_where_it_is() -> None:
    said = [(host, holds(1)) for host in HOSTS]
    service, network = restarted(*said, *reports(2, 28), *clients(submit(1)), before=(submit(1),))
    assert assigned(network) == []
    (restart,) = service.restarts
    assert (restart.taken_over, restart.repeated, restart.undecided) == (1, 0, 0)


@pytest.mark.parametrize("lacking", HOSTS)
def test_what_one_host_never_got_is_repeated_to_it_alone(lacking: str) -> None:
    said = [(host, holds() if host == lacking else holds(1)) for host in HOSTS]
    first = [*said, *reports(2), *clients(submit(1), submit(2))]
    _, network = restarted(*first)
    assert assigned(network) == [(lacking, 1, 2)]
    (repeated,) = [sent.message for sent in network.messages(Assign)]
    assert repeated == Assign(decision(1), submit(1), 2)
    # The books begin with reports that were made after it: nothing else is decided until then.
    assert NewTerm(3) in [sent.message for sent in network.log]
    again = [(host, holds(1, term=3)) for host in HOSTS]
    _, network = restarted(*first, *again, *reports(3), *clients(submit(1), submit(2), term=3))
    assert assigned(network)[1:] == [(host, 2, 3) for host in EVERYWHERE]


def test_a_host_that_is_through_with_its_part_does_not_get_it_again() -> None:
    said = [
        ("pe0-gpu", holds(through=(1,))), ("pe0-buf", holds(through=(1,))),
        ("de0-gpu", holds(1)), ("de0-buf", holds(1)),
    ]  # fmt: skip
    _, network = restarted(*said, *reports(2), *clients(submit(1)))
    assert assigned(network) == []


END = [TurnDone(1, b"", 0.0, 0.0, 0.0), TurnFailed(1, "damaged")]


@pytest.mark.parametrize("end", [*END, None])
@pytest.mark.parametrize("held", [True, False])
def test_a_turn_that_ended_is_not_begun_again_though_its_client_has_not_heard(
    end: Message | None, held: bool
) -> None:
    """Its end may have been lost with the old scheduler, or come before or after all else."""
    word = holds(through=(1,), ended=(1,)) if end is None else holds(1) if held else holds()
    said: list[Said] = [(host, holds()) for host in HOSTS if host != "de0-gpu"]
    said += [("de0-gpu", word), *([("de0-gpu", end)] if end is not None else [])]
    service, network = restarted(*said, *reports(2), *clients(submit(1)))
    assert assigned(network) == [] and list(service.waits()) == []
    assert service.restarts[0].resumed_s >= service.restarts[0].lost_s
    assert (service.restarts[0].taken_over, service.restarts[0].undecided) == (0, 0)


def test_turns_that_nobody_has_are_decided_in_the_order_of_their_submission() -> None:
    # The newest was on its way when the scheduler was lost, so it comes first, and then again.
    said = [("agents", submit(3)), *clients(submit(1), submit(2), submit(3))]
    _, network = restarted(*said, *nothing_held(), *reports(2))
    assert [turn for host, turn, _ in assigned(network) if host == "de0-gpu"] == [1, 2, 3]
    assert [s.message.decision.seq for s in network.messages(Assign) if s.peer == "de0-gpu"] == [
        1, 2, 3,
    ]  # fmt: skip


def test_the_books_begin_with_the_reports() -> None:
    def look(service: Service) -> None:
        cluster = service._scheduler._cluster
        assert cluster.engines["pe0/0"].tokens == cluster.engines["de0/0"].tokens == 77
        assert cluster.engines["de0/0"].free_hbm_tokens == 9_000
        assert cluster.nodes["pe0"].read_queue_tokens == 77

    restarted(*nothing_held(), *reports(2, 77), *clients(), before=(submit(1),), then=look)


def test_the_end_of_a_turn_that_was_taken_over_is_no_news_to_the_new_scheduler() -> None:
    said = [(host, holds(1)) for host in HOSTS]
    service, _ = restarted(
        *said, *reports(2), *clients(submit(1)), ("de0-gpu", END[0]), before=(submit(1),)
    )
    assert service.ended == {"done": 1}


def test_a_second_restart_begins_another_term_and_the_first_one_s_answers_are_void() -> None:
    def lose(service: Service) -> None:
        service.restart()
        for sender, message in [*nothing_held(), *reports(2), *clients(submit(1))]:
            service._act(delivery(sender, message))
        assert len(list(service.waits())) == len(HOSTS) + 3

    service, network = restarted(*nothing_held()[:2], then=lose)
    assert [s.message for s in network.messages(NewTerm)][-1] == NewTerm(3)
    assert [restart.term for restart in service.restarts] == [2, 3]
    assert assigned(network) == []


def test_hosts_that_have_a_turn_from_two_decisions_are_found_out() -> None:
    other = Holds(2, (decision(1, seq=7),), (), ())
    with pytest.raises(EngineError, match="a decision of an earlier term"):
        restarted(("pe0-gpu", holds(1)), ("de0-gpu", other))


@pytest.mark.parametrize("message", [holds(), Resubmitted(2)])
def test_an_answer_to_a_question_that_is_settled_is_an_error(message: Message) -> None:
    with pytest.raises(EngineError, match="cannot use"):
        restarted(*nothing_held(), *reports(2), *clients(), ("pe0-gpu", message))


def test_words_of_an_earlier_term_that_come_when_all_is_settled_are_void() -> None:
    late = [
        ("pe0-gpu", Report("pg", (EngineReport("pe0/0", 9, 9_000, 0, 5),), (), 1)),
        ("pe0-gpu", holds(4, term=1)), ("agents", Resubmitted(1)),
    ]  # fmt: skip

    def look(service: Service) -> None:
        assert service._scheduler._cluster.engines["pe0/0"].tokens == 3

    restarted(*nothing_held(), *reports(2, 3), *clients(), *late, then=look)
