"""Policies by name, and their knobs."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from scheduler.errors import SchedulerError
from scheduler.lookup import ENTRY_POINTS, lookup, names
from scheduler.policy import Traits


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


MINE = """
from scheduler.policies.dualpath import DualPath

class Mine(DualPath):
    pass

POLICY = Mine
"""


def test_a_policy_may_be_a_class_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    for name in ("mine.py", "mine.py:Mine"):
        policy = lookup(f"{tmp_path}/{name}", quota_s=1)
        assert type(policy).__name__ == "Mine"
        assert policy.traits.quota_s == 1
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("class Mine:\n  pass", r"mine.py:Mine has no traits; give its class"),
        ("\nclass Mine(", r"mine.py cannot be loaded: line 2: '\(' was never closed"),
        ("import nowhere", r"mine.py cannot be loaded: line 1: ModuleNotFoundError"),
        ("class Mine:\n  def __init__(self):\n    1 / 0", r"line 3: ZeroDivisionError"),
        ("import wrong", r"cannot be loaded: .*wrong.py, line 2: '\(' was never closed"),
        (
            "from scheduler.policies.dualpath import DualPath\nclass Mine(DualPath):\n"
            "  def ended(self, request_id):\n    yield",
            "mine.py:Mine: ended yields, and would never run",
        ),
        ("class Main: pass", r"no class in .*mine.py 'Mine'; did you mean 'Main'"),
    ],
)
def test_a_file_that_is_no_policy_is_told_with_its_line(
    source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "wrong.py").write_text("\nwrong = (\n")
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(SchedulerError, match=says):
        lookup(f"{tmp_path}/mine.py:Mine")
    with pytest.raises(SchedulerError, match=r"gone.py: No such file"):
        lookup(f"{tmp_path}/gone.py:Mine")


def test_an_installed_policy_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("theirs", "scheduler.policies.basic:Basic", ENTRY_POINTS)
    monkeypatch.setattr("scheduler.lookup._installed", lambda: (entry,))
    assert "theirs" in names()
    assert lookup("theirs").traits == lookup("basic").traits
