"""`testbed explain`: a finished run is decided once more, and says so where it cannot be."""

import gzip
import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from scheduler import protocol
from scheduler.protocol import Decided, Hello
from scheduler.types import Arrived
from testbed.cli.main import main
from testbed.explain import explain
from testbed.results.runs import find_run, policy_folder, policy_folders
from testbed.results.scheduler_log import NAME, read_log
from testbed.session import MARK

FILE = Path(__file__).parents[2] / "topologies" / "1p2d.yaml"
SMALL = ["--set", "workload.agents=30", "--set", "workload.turns=2", "--world", "virtual"]
LONGER_QUEUE = """
from scheduler import path
from scheduler.policies.dualpath import DualPath
from scheduler.types import Side


class LongerQueue(DualPath):
    def reads(self, cluster, request, pe, de):
        short = path.shorter_queue(cluster, pe, de)
        return path.whole(cluster, request, Side.DE if short is Side.PE else Side.PE)

    def explain(self, cluster, request, engine):
        return {"engines": len(cluster.engines), "share": 0.25, "asked for": engine}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three policies, one of them a file that is gone by now."""
    root = tmp_path_factory.mktemp("explain")
    file = root / "longer.py"
    file.write_text(LONGER_QUEUE)
    names = f"basic,{file}:LongerQueue,dualpath"
    words = ["compare", str(FILE), *SMALL, "--policies", names, "--runs", str(root / "runs")]
    assert main([*words, "--require", "functional", "--json"]) == 0
    file.unlink()
    return root / "runs"


def asked(runs: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["explain", *words, "--runs", str(runs)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("policy", ["basic", "dualpath", "LongerQueue"])
def test_every_request_is_decided_as_it_was(runs: Path, policy: str) -> None:
    folder = policy_folder(find_run("1p2d", runs), policy)
    log = read_log(folder / NAME)
    decided = {d.request_id: d for line in log if isinstance(line, Decided) for d in line.decisions}
    assert len(decided) == 60
    for request, decision in list(decided.items())[::7]:
        found = explain(folder, str(request))
        assert found.why.decision == decision and found.asked
        assert list(found.later_s) == ["first_token", "decode", "done"]


def test_a_page_and_its_json_say_the_same(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    code, out, _ = asked(runs, capsys, "1p2d", "17", "--json")
    assert code == 0
    told = json.loads(out)
    why = told["why"]
    assert (told["policy"], why["request"]["id"]) == ("dualpath", 17)
    assert why["prefill"]["paper"] == why["prefill"]["engine"] == why["decision"]["pe"]
    assert {c["set"] for c in why["prefill"]["candidates"]} <= {"C1", "C2", "C3"}
    code, out, _ = asked(runs, capsys, str(runs / "1p2d-1"), "8.0", "--policy", "dualpath")
    assert code == 0 and "request 17 (agent 8, turn 0) under dualpath" in out
    for words in (f"PE {why['decision']['pe']}", f"DE {why['decision']['de']}", "alpha", "Z is"):
        assert words in out
    assert f"{why['room']['needed_tokens']:,} in whole blocks" in out
    assert max(len(line.rstrip()) for line in out.splitlines() if "·" not in line) <= 90


def test_a_policy_of_a_file_is_asked_by_the_copy_in_its_run(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(runs / "1p2d-1", moved)
    code, out, _ = asked(runs, capsys, str(moved), "17", "--policy", "LongerQueue")
    assert code == 0
    assert "The policy says:" in out and "share: 0.25" in out
    assert "the rule of section 6.4 takes" in out


def test_what_ended_a_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "broken.py"
    file.write_text(LONGER_QUEUE.replace("short =", "assert request.id != 9\n        short ="))
    words = ["run", str(FILE), *SMALL, "--policy", f"{file}:LongerQueue"]
    assert main([*words, "--runs", str(tmp_path / "runs")]) == 1
    code, out, _ = asked(tmp_path / "runs", capsys, "1p2d", "9")
    assert code == 0
    assert "The run ended before it was decided: the policy failed on request 9 at broken.py" in out
    code, out, _ = asked(tmp_path / "runs", capsys, "1p2d", "1")
    assert code == 0 and "decided (seq" in out


def test_what_ended_a_run_is_told_though_other_groups_fetched_in_that_instant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "broken.py"
    file.write_text(
        LONGER_QUEUE + "\n    def prefill(self, cluster, group):\n        return 1 / 0\n"
    )
    words = ["run", str(FILE), *SMALL, "--policy", f"{file}:LongerQueue"]
    assert main([*words, "--runs", str(tmp_path / "runs")]) == 1
    code, out, _ = asked(tmp_path / "runs", capsys, "1p2d", "1")
    assert code == 0 and "The run ended before it was decided" in out
    assert "broken.py:16 (prefill)" in out


TWICE = """
    def prefill(self, cluster, group):
        for placement in super().prefill(cluster, group):
            yield placement
            if placement.request_id == 9:
                yield placement
"""


def test_a_placement_that_ended_a_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "twice.py"
    file.write_text(LONGER_QUEUE + TWICE)
    words = ["run", str(FILE), *SMALL, "--policy", f"{file}:LongerQueue"]
    assert main([*words, "--runs", str(tmp_path / "runs")]) == 1
    code, out, err = asked(tmp_path / "runs", capsys, "1p2d", "9")
    assert (code, err) == (
        0,
        "",
    ) and "The run ended before it was decided: the policy failed on req" in out
    assert "request 9 was placed on pe0/" in out and "but already has a PE" in out


@pytest.mark.parametrize("said", ["[1]", "{'x': object()}"])
def test_reasons_that_no_page_can_show_are_told(
    said: str, runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = shutil.copytree(runs / "1p2d-1", tmp_path / "1p2d-1")
    policy = copy / "LongerQueue" / "longer.py"
    lines = LONGER_QUEUE.splitlines()
    policy.write_text("\n".join([*lines[:-1], f"        return {said}", ""]))
    for more in ([], ["--json"]):
        code, out, err = asked(runs, capsys, str(copy), "9", "--policy", "LongerQueue", *more)
        assert code == 1 and out == "" and "let its `explain` return a dict of names" in err
        assert err.count("\n") == 1


def with_log(runs: Path, tmp_path: Path, change: str) -> Path:
    """A copy of the run, its dualpath log changed."""
    copy = tmp_path / "copy"
    shutil.copytree(runs / "1p2d-1", copy)
    lines = list(read_log(copy / "dualpath" / NAME))
    if change == "restarted":  # after the first arrivals
        lines = [*lines[:2], *(line for line in lines[2:] if isinstance(line, Arrived)), *lines]
    for number, line in enumerate(lines):
        if isinstance(line, Hello) and change in ("external", "gone"):
            word = "cmd:./mine" if change == "external" else "dualpth"
            lines[number] = msgspec.structs.replace(line, policy=word)
        if isinstance(line, Decided) and change == "other":
            was = line.decisions[0]
            lines[number] = Decided((msgspec.structs.replace(was, pe="pe9/9"), *line.decisions[1:]))
            break
    log = gzip.compress(b"".join(map(protocol.encode, lines)))
    (copy / "dualpath" / NAME).write_bytes(log)
    return copy


def test_another_decision_than_the_recorded_one_is_told(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = with_log(runs, tmp_path, "other")
    code, out, err = asked(runs, capsys, str(copy), "60", "--policy", "dualpath")
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "is decided differently" in err and "pe9/9" in err and "play it again" in err


def test_a_policy_that_is_no_more_is_told(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = with_log(runs, tmp_path, "gone")
    code, _, err = asked(runs, capsys, str(copy), "60", "--policy", "dualpath")
    assert code == 1 and "cannot be asked again" in err and err.count("\n") == 1


@pytest.mark.parametrize("line", [b'{"request":60}', b'{"at_s":"\xff","request":60}'])
def test_a_damaged_event_log_is_bad_input(
    line: bytes, runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = shutil.copytree(runs / "1p2d-1", tmp_path / "1p2d-1")
    (copy / "dualpath" / "events.jsonl").write_bytes(line + b"\n")
    code, out, err = asked(runs, capsys, str(copy), "60", "--policy", "dualpath")
    assert code == 2 and out == "" and "is no event log of a run" in err and err.count("\n") == 1


def test_a_restarted_scheduler_knows_nothing_of_before(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = with_log(runs, tmp_path, "restarted")
    found, whole = explain(copy / "dualpath", "60"), explain(runs / "1p2d-1" / "dualpath", "60")
    assert (found.term, whole.term) == (2, 1) and found.why == whole.why
    code, out, _ = asked(runs, capsys, str(copy), "60", "--policy", "dualpath")
    assert code == 0 and "after restart 1 of the scheduler" in out


def test_a_scheduler_of_another_process_keeps_its_reasons(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = with_log(runs, tmp_path, "external")
    code, out, _ = asked(runs, capsys, str(copy), "17", "--policy", "dualpath")
    assert code == 0
    assert "its reasons are its own" in out and "Algorithm 1" not in out
    ours = explain(copy / "dualpath", "17")
    theirs = explain(runs / "1p2d-1" / "dualpath", "17")
    assert ours.why.prefill and not ours.why.prefill.pulled
    assert len(ours.why.prefill.candidates) == 8
    assert not ours.asked and ours.why.decision == theirs.why.decision
    assert ours.why.reading and theirs.why.reading
    # The DE may be booked earlier there than the decision; the read queues are the same.
    assert (ours.why.reading.pe, ours.why.reading.de) == (
        theirs.why.reading.pe, theirs.why.reading.de,
    )  # fmt: skip


@pytest.mark.parametrize(("words", "said"), [
    (["1p2", "17"], "nearest run: '1p2d"),
    (["1p2d" * 100, "17"], "no run '1p2d1p2d"),
    (["1p2d-7", "17"], "nearest run: '1p2d-1'"),
    (["1p2d", "99"], "it has 1 to 60"),
    (["1p2d", "5.7"], "agent 5 has turns 0 to 1"),
    (["1p2d", "77.0"], "it has agents 0 to 29"),
    (["1p2d", "x"], "neither a number"),
    (["1p2d"], "which request?"),
    (["1p2d", "17", "--policy", "dualpth"], "nearest policy: 'dualpath'"),
    (["1p2d", "--differing", "basic"], "name two policies"),
    (["1p2d", "--differing", "basic,basic"], "name two policies"),
    (["1p2d", "--differing", "basic,dualpth"], "nearest policy: 'dualpath'"),
    (["1p2d", "4", "--differing", "basic,dualpath"], "of all requests"),
])  # fmt: skip
def test_bad_input_is_one_line_with_the_nearest_name(
    words: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = asked(runs, capsys, *words)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1


def test_the_newest_run_of_a_name(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for made_s, name in enumerate(("1p2d-2", "1p2d-10", "1p2d-seeds-1", "1p2d-1")):
        (root / name).mkdir(parents=True)
        (root / name / MARK).touch()
        os.utime(root / name / MARK, (made_s, made_s))
    assert find_run("1p2d", root) == root / "1p2d-1"
    assert find_run("1p2d-10", root) == root / "1p2d-10"
    assert find_run("1p2d-seeds", root) == root / "1p2d-seeds-1"


def test_policies_are_in_the_order_in_which_they_were_asked_for(tmp_path: Path) -> None:
    for folder in ("a", "x.py-B"):  # copies of reused runs are older than what is played
        (tmp_path / folder).mkdir()
        (tmp_path / folder / NAME).touch()
    assert list(policy_folders(tmp_path)) == ["a", "x.py-B"]
    (tmp_path / "result.json").write_text('{"policies": {"x.py:B": {}, "gone": {}, "a": {}}}')
    found = policy_folders(tmp_path)
    assert list(found.items()) == [("x.py:B", tmp_path / "x.py-B"), ("a", tmp_path / "a")]
    assert policy_folder(tmp_path, None) == tmp_path / "a"


def test_turns_placed_differently(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["1p2d", "--differing", "basic,dualpath"]
    code, out, _ = asked(runs, capsys, *pair, "--json", "--top", "100")
    assert code == 0
    told = json.loads(out)
    assert told["turns"] == 60 == sum(total["turns"] for total in told["totals"])
    one = told["costly"][0]
    parts = [name for name, key in (("PE", "pe"), ("DE", "de"), ("read", "read"))
             if one["first"][key] != one["second"][key]]  # fmt: skip
    assert parts and one["kind"] == ", ".join(parts)
    found = [
        explain(runs / "1p2d-1" / policy, str(one["request"])) for policy in ("basic", "dualpath")
    ]
    for number, each in enumerate(found):
        ttft_s = each.later_s["first_token"] - each.why.arrived_s
        # The client submits a message before the scheduler hears of it.
        assert one["ttft_s"][number] == pytest.approx(ttft_s, abs=1e-3)
    costs = [each["jct_s"][1] - each["jct_s"][0] for each in told["costly"]]
    assert costs == sorted(costs, reverse=True) and told["gained"] == []
    code, out, _ = asked(runs, capsys, *pair, "--top", "1")
    assert code == 0 and "turns placed differently" in out
    assert f"{one['agent']}.{one['turn']}" in out


def test_compare_lists_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", str(FILE), *SMALL, "--runs", str(tmp_path), "--require", "functional"]
    assert main([*words, "--differing", "2"]) == 0
    assert "dualpath against basic" in capsys.readouterr().out
    assert main([*words, "--differing", "2", "--json"]) == 2
    assert "--differing does not go with --json" in capsys.readouterr().err
