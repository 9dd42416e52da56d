"""Policies by name, and their knobs."""

import pytest

from scheduler.errors import SchedulerError
from scheduler.policy import Traits, lookup


def test_traits_are_those_of_the_policy() -> None:
    assert lookup("basic").traits == Traits(False, None, 8192, 256)
    assert lookup("dualpath").traits == Traits(True, 0.3, None, None)
    assert lookup("static-split").traits == lookup("dualpath").traits


def test_an_experiment_overrides_knobs_of_its_own_policy_only() -> None:
    assert lookup("basic", max_tokens=4.0, read_ahead=None).traits == Traits(False, None, 4, None)
    assert lookup("dualpath", quota_s=1).traits.quota_s == 1.0
    assert lookup("basic").traits.max_tokens == 8192


@pytest.mark.parametrize(
    ("name", "knobs", "says"),
    [
        ("dualpth", {}, "did you mean 'dualpath'"),
        ("static_split", {}, "did you mean 'static-split'"),
        ("basic", {"max_token": 3.0}, "did you mean 'max_tokens'"),
        ("basic", {"max_tokens": 2.5}, "max_tokens"),
        ("basic", {"max_tokens": 0.0}, ">= 1"),
        ("dualpath", {"quota_s": 0.0}, "> 0"),
    ],
)
def test_a_wrong_name_or_knob_is_answered_with_the_nearest(
    name: str, knobs: dict[str, float], says: str
) -> None:
    with pytest.raises(SchedulerError, match=says):
        lookup(name, **knobs)


def test_a_file_that_names_no_policy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from scheduler.policies import basic

    monkeypatch.delattr(basic, "POLICY")
    with pytest.raises(SchedulerError, match=r"basic.py names no policy; end it with POLICY ="):
        lookup("basic")
