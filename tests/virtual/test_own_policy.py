"""A policy of one's own: a file and a class, in every command that takes a policy."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.lookup import names
from testbed.bound import Reads, reads_of
from testbed.cli.main import main
from testbed.policies import choose, choose_one

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"
SMALL = ("--set", "workload.agents=6", "--set", "workload.turns=1", "--set", "workload.openings=2")
MINE = """
from scheduler import path
from scheduler.policies.dualpath import DualPath
from scheduler.types import Side

print("loaded")


class Left(DualPath):
    def reads(self, cluster, request, pe, de):
        return path.whole(cluster, request, Side.PE)


class Right(DualPath):
    def reads(self, cluster, request, pe, de):
        return path.whole(cluster, request, Side.DE)


POLICY = Right
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def play(capsys: pytest.CaptureFixture[str], runs: Path, *words: str) -> Any:
    verb, *rest = words
    asked = [verb, str(FILE), "--world", "virtual", "--runs", str(runs), "--json", *SMALL, *rest]
    asked += ["--require", "functional"]
    assert main(asked) == 0
    return json.loads(capsys.readouterr().out)  # and nothing that the policy prints


def test_a_run_takes_a_class_of_a_file_and_keeps_a_copy(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = play(capsys, tmp_path / "runs", "run", "--policy", f"{mine}:Left")
    assert list(found["policies"]) == ["Left"]
    assert found["policies"]["Left"]["path_share"] == {"pe": 1.0, "de": 0.0}
    assert (Path(found["folder"]) / "Left" / "mine.py").read_text() == MINE
    assert not (tmp_path / "__pycache__").exists()


def test_two_policies_of_one_file_and_its_own_choice(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"basic,{mine}:Left,{mine}"
    found = play(capsys, tmp_path / "runs", "compare", "--policies", words)["policies"]
    shares = {name: result["path_share"]["pe"] for name, result in found.items()}
    assert shares == {"basic": 1.0, "Left": 1.0, "Right": 0.0}


def test_who_edits_a_file_in_mid_run_changes_nothing(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from testbed import session

    measure = session.measure

    def meanwhile(*args: Any) -> Any:
        mine.write_text("no Python")
        return measure(*args)

    monkeypatch.setattr(session, "measure", meanwhile)
    words = f"basic,{mine}:Right"
    found = play(capsys, tmp_path / "runs", "compare", "--policies", words)
    assert found["policies"]["Right"]["path_share"]["de"] == 1.0


def test_a_grid_finds_files_beside_it_and_plays_again_what_changed(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("experiment: 1p1d.yaml\npolicies: [pe-only, mine.py:Right]\n")
    words = ["sweep", str(grid), "--runs", str(tmp_path / "runs"), "--processes", "1", *SMALL]
    assert main(words) == 0
    assert "0 of 2 points were there before" in capsys.readouterr().err
    table = tmp_path / "runs" / "grid-sweep" / "table.jsonl"
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    assert [line["policy"] for line in lines] == ["pe-only", "Right"]
    mine.write_text(MINE.replace("Right", "Left").replace("Side.DE", "Side.PE"))
    assert main(words) == 2  # a class that is gone is seen at once, with its line of the grid
    assert "grid.yaml:2: there is no class in" in capsys.readouterr().err
    mine.write_text(MINE + "# another word")
    assert main(words) == 0
    assert "1 of 2 points were there before" in capsys.readouterr().err


def test_what_if_takes_it(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whatif", str(FILE), *SMALL, "--policy", f"{mine}:Left", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == "Left"


GOOD = "from scheduler.policies.dualpath import DualPath\nclass Mine(DualPath):\n  "


@pytest.mark.parametrize(("source", "says"), [
    (None, "gone.py: No such file"),
    ("class Other: pass", "no class in"),
    ("class Mine(", "line 1: '(' was never closed"),
    ("raise OSError('a\\nb')", "line 1: OSError: a b"),
    ("raise SystemExit(0)", "line 1: SystemExit: 0"),
    ("class Mine:\n  def arrived(self): pass", "has no traits"),
    (
        "from scheduler.policy import Traits\nclass Mine:\n  traits = Traits(layerwise=True)\n"
        "  def arrived(self, cluster, request): pass",
        "has no method fetch(cluster, group)",
    ),
    (GOOD + "def reads(self, cluster): pass", "reads cannot be called as reads(cluster, request,"),
    (GOOD + "async def fetch(self, cluster, group): pass", "fetch is async"),
])  # fmt: skip
@pytest.mark.parametrize("verb", ["run", "compare", "whatif"])
def test_a_file_that_is_no_policy_is_bad_input_in_one_line(
    verb: str, source: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ("mine.py" if source is not None else "gone.py")
    if source is not None:
        file.write_text(source)
    policy = (
        ["--policies", f"basic,{file}:Mine"] if verb == "compare" else ["--policy", f"{file}:Mine"]
    )
    runs = [] if verb == "whatif" else ["--world", "virtual", "--runs", str(tmp_path / "runs")]
    assert main([verb, str(FILE), *SMALL, *policy, *runs]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert says in said.err and str(file) in said.err
    assert sorted(tmp_path.iterdir()) == ([file] if source is not None else [])


def test_names_of_results_and_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MINE + "class basic(Left): pass\n")
    one, other, third, last = choose(
        ["a/mine.py:Left", "b/mine.py:Left", "./a/mine.py", "basic"], tmp_path
    )
    assert [p.name for p in (one, other, third, last)] == [
        "a/mine.py:Left",
        "b/mine.py:Left",
        "Right",
        "basic",
    ]
    assert [p.folder for p in (one, other)] == ["a-mine.py-Left", "b-mine.py-Left"]
    assert one.digest == other.digest != third.digest
    both = choose(["basic", "a/mine.py:basic", "a/mine.py:Left"], tmp_path)
    assert [p.name for p in both] == ["basic", "a/mine.py:basic", "Left"]
    assert both[0].reads_like == both[0].name and both[1].reads_like == ""


def test_folders_are_safe_and_differ_whatever_the_case(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE + "class Basic(Left): pass\nclass Ümlaut(Left): pass\n")
    words = ["basic", "mine.py:Basic", "mine.py:Ümlaut", "mine.py:Left"]
    assert [p.folder for p in choose(words, tmp_path)] == ["basic", "Basic-2", "mlaut", "Left"]
    assert [p.name for p in choose(words, tmp_path)] == ["basic", "Basic", "Ümlaut", "Left"]


def test_a_policy_that_reads_as_a_built_in_one_is_bounded_as_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from scheduler.policies.basic import Basic\nclass Mine(Basic): pass\n"
    )
    assert choose(["mine.py:Mine"], tmp_path)[0].reads_like == "basic"
    assert choose_one("pe-only").reads_like == "pe-only"
    assert choose_one("static-split").reads_like == "static-split"
    assert choose_one("dualpath-affinity").reads_like == "dualpath-affinity"  # not affinity's PE
    (tmp_path / "mine.py").write_text(
        "from scheduler.policies.dualpath_affinity import DualPathAffinity\n"
        "class Mine(DualPathAffinity): pass\n"
    )
    assert reads_of(choose(["mine.py:Mine"], tmp_path)[0].reads_like) is Reads.BOTH


@pytest.mark.parametrize("name", [*names(), "basic+dual-path", "basic+layerwise"])
def test_a_built_in_policy_is_bounded_as_itself_whatever_it_inherits(name: str) -> None:
    assert reads_of(choose_one(name).reads_like) is reads_of(name)


def install(folder: Path, code: str) -> None:
    """A package with an entry point, as an installer would leave it."""
    (folder / "their_policies.py").write_text(code)
    info = folder / "their_policies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policies\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[testbed.policies]\ntheirs = their_policies:Left\n")


def test_an_installed_policy_is_played_and_known_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = play(capsys, tmp_path / "runs", "run", "--policy", "theirs")
    assert found["policies"]["theirs"]["path_share"]["pe"] == 1.0
    assert main(["run", str(FILE), "--policy", "thiers", *SMALL]) == 2
    assert "did you mean 'theirs'? Known: affinity, basic," in capsys.readouterr().err


def test_an_installed_policy_that_cannot_be_loaded_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "raise SystemExit('broken')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_policies", raising=False)
    assert main(["run", str(FILE), "--policy", "theirs", *SMALL]) == 2
    said = capsys.readouterr().err
    assert "theirs (their_policies:Left, installed) cannot be loaded: SystemExit: broken" in said


def test_the_help_of_compare_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    words = capsys.readouterr().out.split()
    assert "dualpath," in words and "basic," in words
