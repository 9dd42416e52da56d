"""The scheduler's host: messages become events, decisions go to everybody who has a part."""

import pytest
from fakes import FakeClock, FakeTransport, Network, play

from engines.config import ServiceConfig
from engines.errors import EngineError
from engines.messages import Assign, Drain, Message, Report, Start, Submit, TurnDone, TurnFailed
from engines.service import Service
from scheduler.lookup import lookup
from scheduler.scheduler import Scheduler
from scheduler.types import (
    ClusterSpec,
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
ENGINE_HOSTS = {"pe0/0": "pe0-gpu", "de0/0": "de0-gpu"}
BUFFERS = {"pe0": "pe0-buf", "de0": "de0-buf"}


def submit(number: int, hit: int = 8) -> Submit:
    return Submit(Request(number, 0, 0, 20, hit, 4, (), number), b"abcde")


def serve(policy: str, *messages: Message) -> tuple[Service, Network]:
    network = Network()
    found: list[Service] = []

    async def whole() -> None:
        config = ServiceConfig("sched", SPEC, policy, ENGINE_HOSTS, BUFFERS)
        transport = FakeTransport("sched", network)
        service = Service(config, FakeClock(), transport, lambda: Scheduler(SPEC, lookup(policy)))
        found.append(service)
        for message in (*messages, Drain()):
            FakeTransport("someone", network).post("sched", message)
        await service.run()

    play(whole)
    return found[0], network


def told(network: Network) -> list[tuple[str, int]]:
    return [
        (sent.peer, sent.message.decision.request_id)
        for sent in network.messages(Assign)
        if isinstance(sent.message, Assign)
    ]


def test_a_read_on_the_pe_side_is_told_to_both_engines_and_both_buffers() -> None:
    service, network = serve("basic", submit(1))
    assert told(network) == [(host, 1) for host in ("pe0-gpu", "de0-gpu", "de0-buf", "pe0-buf")]
    (entry,) = service.decided
    assert entry.decision.reads == (ReadExtent(Side.PE, 0, 2),)
    assert all(s.message.turn == submit(1) for s in network.messages(Assign))


@pytest.mark.parametrize(("policy", "hit"), [("de-only", 8), ("basic", 0)])
def test_the_pe_buffer_hears_nothing_of_what_it_does_not_read(policy: str, hit: int) -> None:
    fetches = [
        Report("pg", (EngineReport("pe0/0", 0, 0, 10_000, 0),), (NodeReport("pe0", 0, 0),)),
        Report("dg", (EngineReport("de0/0", 0, 0, 10_000, 0),), (NodeReport("de0", 0, 0),)),
    ]
    _, network = serve(policy, submit(1, hit), *fetches)
    assert sorted(told(network)) == [("de0-buf", 1), ("de0-gpu", 1), ("pe0-gpu", 1)]


def test_decisions_arrive_everywhere_in_order() -> None:
    _, network = serve("basic", submit(1), submit(2), submit(3))
    for host in ("pe0-gpu", "de0-gpu", "de0-buf", "pe0-buf"):
        seqs = [s.message.decision.seq for s in network.messages(Assign) if s.peer == host]
        assert seqs == [1, 2, 3]


def test_ends_are_counted_by_reason_and_may_be_told_twice() -> None:
    done = TurnDone(1, b"", 0.0, 0.0, 0.0)
    messages = [submit(1), submit(2), done, TurnFailed(2, "damaged"), TurnFailed(2, "lost")]
    service, _ = serve("basic", *messages)
    assert service.ended == {"done": 1, "damaged": 1, "lost": 1}
    assert not service._turns


def test_a_message_that_is_not_for_the_scheduler_is_an_error() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        serve("basic", Start(1))
    (error,) = caught.value.exceptions
    assert isinstance(error, EngineError) and "scheduler cannot use Start" in str(error)
