"""Causes of a verdict, each triggered by one doctored input; test_timing.py has the machine's."""

import msgspec
import pytest
from test_metrics import run_data

from testbed.bound import Bound
from testbed.results import verdict
from testbed.results.ledger import PortLine
from testbed.results.metrics import measure
from testbed.results.rundata import RunData
from testbed.results.schema import PolicyResult, Verdict
from testbed.results.verdict import join, judge
from testbed.worlds.samples import Change


def sound() -> tuple[RunData, PolicyResult]:
    """A run that nothing can be said against."""
    run = run_data()
    bound = Bound(1.02, "SNICs", {"SNICs": 1.02})
    result = measure(run, lambda *_: bound, 1)
    lines = [PortLine(x.port, x.expected_bytes, x.expected_bytes) for x in result.ledger]
    return run, msgspec.structs.replace(result, ledger=lines)


def judged(run: RunData, result: PolicyResult) -> Verdict:
    return judge(run, result)


def test_a_sound_run_passes_and_is_faithful() -> None:
    assert judged(*sound()) == Verdict("passed", "faithful", ())


@pytest.mark.parametrize(("changes", "words"), [
    ({"failed_turns": 2, "failures": {"damaged": 2}}, "2 turns did not complete: {'damaged': 2}"),
    ({"tokens_equal": 79}, "1 of 80 tokens differ"),
    ({"kv_equal": 1}, "KV differs in 1 sampled turns"),
    ({"completed_turns": 9}, "8 turns were checked, 9 completed"),
])  # fmt: skip
def test_a_wrong_result_fails_the_run(changes: dict[str, object], words: str) -> None:
    run, result = sound()
    found = judged(run, msgspec.structs.replace(result, **changes))
    assert (found.functional, found.timing) == ("failed", "faithful")
    (cause,) = found.causes
    assert words in cause


@pytest.mark.parametrize(("expected", "counted", "again", "fails"), [
    (10**8, 10**8 + 10**6, 0, False),
    (10**8, 10**8 + 10**6 + 1, 0, True),
    (10**8, 10**8 - 10**6 - 1, 0, True),
    (0, 8 * 4096, 0, False),  # frames and acknowledgements of eight turns
    (0, 8 * 4096 + 1, 0, True),
    (10**8, 10**8 + 10**6 + 1448, 1448, False),  # a segment that crossed the port twice
    (10**8, 10**8 - 10**6 - 1, 1448, True),
])  # fmt: skip
def test_a_port_that_carried_something_else_fails_the_run(
    expected: int, counted: int, again: int, fails: bool
) -> None:
    run, result = sound()
    lines = [PortLine("x:cnic:rx", expected, counted)]
    result = msgspec.structs.replace(result, ledger=lines, retransmitted_bytes=again)
    found = judged(run, result)
    assert (found.functional == "failed") is fails
    assert all("x:cnic:rx" in cause for cause in found.causes)


def test_the_ledger_says_nothing_about_a_run_with_failed_turns() -> None:
    run, result = sound()
    lines = [PortLine("x:cnic:rx", 10**8, 0)]
    found = judged(run, msgspec.structs.replace(result, ledger=lines, failed_turns=1))
    assert len(found.causes) == 1


def test_kv_outside_its_class_fails_the_run() -> None:
    run, result = sound()
    run.samples.class_bytes["pe0-gpu:cnic>"]["1:20"] = 0
    (cause,) = judged(run, result).causes
    assert "0 bytes left in the KV class" in cause
    wires = msgspec.structs.replace(run.plan.wires, qos=False)
    run.plan = msgspec.structs.replace(run.plan, wires=wires)
    assert not judged(run, result).causes  # without classes there is nothing to tell apart


def test_a_run_without_a_token_shows_none_to_be_right() -> None:
    run, result = sound()
    none = msgspec.structs.replace(result, tokens_checked=0, tokens_equal=0)
    found = judged(run, none)
    assert found.functional == "inconclusive" and "no turn generated a token" in found.causes[0]
    assert join({"a": judged(run, result), "b": found}).functional == "inconclusive"
    wrong = msgspec.structs.replace(none, tokens_checked=1)
    assert join({"a": found, "b": judged(run, wrong)}).functional == "failed"


@pytest.mark.parametrize(("rate", "timing"), [(1.05, "faithful"), (1.06, "inconclusive")])
def test_more_than_the_limit_allows_was_no_steady_state(rate: float, timing: str) -> None:
    run, result = sound()
    found = judged(run, msgspec.structs.replace(result, throughput_turns_per_s=rate))
    assert found.timing == timing
    assert all("104% of what SNICs allow came out" in cause for cause in found.causes)


def test_a_run_without_steady_state_makes_the_timing_inconclusive() -> None:
    run, result = sound()
    found = judged(run, msgspec.structs.replace(result, window_s=(0.0, 3.9)))
    assert found.timing == "inconclusive" and "no steady state" in found.causes[0]


def test_a_policy_below_its_bound_is_no_doubt_about_the_machine() -> None:
    run, result = sound()
    bound = Bound(2.0, "SNICs", {"SNICs": 2.0})
    assert judged(run, msgspec.structs.replace(result, bound=bound)).timing == "faithful"


def test_a_comparison_is_as_good_as_its_worst_run() -> None:
    good = Verdict(verdict.PASSED, verdict.FAITHFUL, ())
    wrong = Verdict(verdict.FAILED, verdict.FAITHFUL, ("a",))
    late = Verdict(verdict.PASSED, verdict.INCONCLUSIVE, ("b", "c"))
    assert join({"x": good, "y": good}) == good
    assert join({"x": good, "y": wrong}) == Verdict("failed", "faithful", ("y: a",))
    assert join({"x": late, "y": wrong}) == Verdict(
        "failed", "inconclusive", ("x: b", "x: c", "y: a")
    )


def test_a_network_that_somebody_changed_is_not_the_experiments() -> None:
    run, result = sound()
    run.samples.changes = [Change(101.0, "link", "pe0-buf:snic to 1 Mbit/s")]
    verdict = judged(run, result)
    assert (verdict.functional, verdict.timing) == ("passed", "inconclusive")
    assert "changed the network 1 times" in verdict.causes[0]


def test_classes_that_somebody_switched_leave_the_class_of_kv_unknown() -> None:
    run, result = sound()
    run.samples.changes = [Change(101.0, "qos", "classes off"), Change(102.0, "qos", "classes on")]
    verdict = judged(run, result)
    assert (verdict.functional, verdict.timing) == ("inconclusive", "inconclusive")
    assert "switched the traffic classes" in verdict.causes[0]
