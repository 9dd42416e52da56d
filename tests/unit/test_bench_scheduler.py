"""The bench of decisions measures what it says: a closed loop, and a scan with the same rules."""

from scheduler.policies.dualpath import DualPath
from scheduler.policy import Policy
from scheduler.scheduler import Scheduler
from scheduler.types import Arrived, Decision, Ended, Event, Fetch
from testbed.bench.scheduler import Engines, Scan, cluster

SPEC = cluster(2, 3, 4, pooled=True)


def played(policy: Policy, periods: int) -> tuple[list[Event], list[Decision]]:
    engines, scheduler = Engines(SPEC, 300), Scheduler(SPEC, policy)
    events: list[Event] = []
    decisions: list[Decision] = []
    for _ in range(periods):
        now = engines.period()
        found = [decision for event in now for decision in scheduler.handle(event)]
        engines.take(found)
        events += now
        decisions += found
    return events, decisions


def test_scans_decide_what_dualpath_decides() -> None:
    decisions = played(DualPath(), 700)[1]
    assert played(Scan(), 700)[1] == decisions and len(decisions) > 500
    assert {read.side for decision in decisions for read in decision.reads} == {"pe", "de"}


def test_every_agent_has_one_turn_once_all_have_come() -> None:
    events, decisions = played(DualPath(), 700)
    arrived = sum(isinstance(event, Arrived) for event in events)
    ended = sum(isinstance(event, Ended) for event in events)
    assert arrived - ended == 300
    assert len(decisions) == arrived
    assert sum(isinstance(event, Fetch) for event in events) == 2 * 700
