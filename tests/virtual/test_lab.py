"""Labs as a student and a grader live through them: the starter fails, the solution passes."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.cli.main import main
from testbed.labs.catalogue import LABS
from testbed.labs.check import as_json, check_folder
from testbed.labs.folder import LabFolder, open_folder, packaged, start
from testbed.labs.play import Player
from testbed.labs.player import MINE, STARTER, Broken, Job, Played
from testbed.labs.report import report, unanswered
from testbed.labs.result import Result, json_schema

ROOT = Path(__file__).parents[2]
LAB = LABS["idle-snic"]
PAGES = ROOT / "docs" / "labs"
SOLUTION = (PAGES / "idle-snic" / "solution" / "solution.py").read_text()
ALL = ("file", "right", "both-sides", "throughput", "other-cluster", "quiet")

Start = Callable[..., Path]


def with_lines(*lines: str, state: str = "") -> str:
    """The starter with other lines in `side`, and an attribute `seen` where they need a memory."""
    memory = f"    def __init__(self) -> None:\n        super().__init__()\n        {state}\n\n"
    body = "".join(f"        {line}\n" for line in lines)
    starter = packaged(LAB, STARTER).replace("        return Side.PE\n", body)
    return starter.replace("    def side(", memory + "    def side(") if state else starter


WRONG = {
    "starter": (packaged(LAB, STARTER), set(ALL[2:]), "only-pe"),
    "always DE": (with_lines("return Side.DE"), set(ALL[2:]), "only-de"),
    "in turn, without a look": (
        with_lines(
            "self.seen += 1", "return Side.PE if self.seen % 2 else Side.DE", state="self.seen = 0"
        ),
        {"other-cluster"},
        "alternates",
    ),
    "the engines' queues": (
        with_lines(
            "pe_book, de_book = cluster.engines[pe], cluster.engines[de]",
            "return Side.PE if pe_book.tokens <= de_book.tokens else Side.DE",
        ),
        set(ALL[2:]),
        "wrong-queue",
    ),
    "ties always on one side": (
        with_lines(
            "queues = [cluster.node_of(name).read_queue_tokens for name in (pe, de)]",
            "return Side.PE if queues[0] <= queues[1] else Side.DE",
        ),
        {"quiet"},
        "ties",
    ),
}


@pytest.fixture
def begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Start:
    def begin(code: str = "", student: str = "", name: str = "mine") -> Path:
        folder = tmp_path / name
        assert main(["lab", "start", "idle-snic", str(folder), "--student", student]) == 0
        capsys.readouterr()
        if code:
            (folder / STARTER).write_text(code)
        return folder

    return begin


def checked(folder: Path, capsys: pytest.CaptureFixture[str], code: int) -> Any:
    assert main(["lab", "check", str(folder), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabFolder, Result]:
    """The folder of a student who found the solution, and its check."""
    path = tmp_path_factory.mktemp("labs") / "ada"
    start(LAB, path, "ada")
    (path / STARTER).write_text(SOLUTION)
    folder = open_folder(path)
    return folder, check_folder(folder)


@pytest.mark.parametrize("idea", WRONG)
def test_a_wrong_answer_fails_what_it_should_with_its_hint(
    idea: str, begun: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    code, failing, cause = WRONG[idea]
    result = checked(begun(code), capsys, 1)
    assert not result["passed"]
    failed = {check["id"]: check for check in result["checks"] if not check["passed"]}
    assert set(failed) == failing
    first = next(iter(failed.values()))
    assert first["hint"]["cause"] == cause and len(first["hint"]["stages"]) == 3
    assert first["points"] == 0 < first["most_points"]


@pytest.mark.parametrize("student", ["", *(f"s{number}" for number in range(1, 10))])
def test_the_solution_passes_whoever_hands_it_in(
    student: str, begun: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    result = checked(begun(SOLUTION, student), capsys, 0)
    assert result["passed"] and result["points"] == result["most_points"] == 10
    assert [check["id"] for check in result["checks"]] == list(ALL)
    assert result["student"] == student
    assert all(check["hint"] is None for check in result["checks"])
    # The page says what to expect.
    main_run, basic = result["mine"]["main"], result["reference"]["basic"]
    assert main_run["turns_per_s"] / basic["turns_per_s"] == pytest.approx(1.78, abs=0.05)
    assert min(main_run["snic"].values()) > 0.99


def test_an_id_changes_the_numbers() -> None:
    drawn = [LAB.experiment(student) for student in ("", "ada", "bob")]
    assert len(set(drawn)) == 3
    assert drawn[1] == LAB.experiment("ada")
    for text in drawn:
        for key in ("agents", "cached_tokens", "append_tokens", "seed"):
            assert len(re.findall(rf"(?m)^ *{key}: \d+ ", text)) == 1


def test_a_check_gives_the_same_bytes_every_time(
    tmp_path: Path, solved: tuple[LabFolder, Result]
) -> None:
    folder, result = solved
    ended = subprocess.run(
        [sys.executable, "-m", "testbed.cli.main", "lab", "check", str(folder.path), "--json"],
        capture_output=True, timeout=100, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.stdout.decode() == as_json(result)


@pytest.mark.timeout(300)
def test_the_page_works_word_for_word(tmp_path: Path) -> None:
    """With the solution in place of a student's thinking, after the starter was seen to fail."""
    page = (PAGES / "idle-snic" / "README.md").read_text()
    assert page == packaged(LAB, "README.md")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    assert len(lines) >= 7
    where, codes = tmp_path, {}
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "cd":
            where = where / words[1]
            continue
        if words[0] == "testbed":
            words[:1] = [sys.executable, "-m", "testbed.cli.main"]
        else:
            assert words[0] == "python"
            words[0] = sys.executable
        ended = subprocess.run(
            words, cwd=where, capture_output=True, text=True, timeout=100, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        codes[line] = ended.returncode
        if line == "testbed lab check":
            assert "2 of 10 points" in ended.stdout
        if "--hints" in line:
            (where / STARTER).write_text(SOLUTION)
    failing = [line for line, code in codes.items() if code]
    assert failing == [line for line in codes if line.startswith("testbed lab check")]
    assert "10 of 10" in (where / "report.md").read_text()


def test_the_page_of_all_labs_shows_commands_that_work(
    tmp_path: Path, solved: tuple[LabFolder, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("testbed.cli.lab", "testbed.labs.report"):
        monkeypatch.setattr(f"{module}.check_folder", lambda *_: solved[1])
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"(?ms)^```sh\n(.*?)^```", (PAGES / "README.md").read_text())
    lines = block.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
    assert (tmp_path / "idle-snic" / "report.md").is_file()


def played(code: str, limit_s: float = 60.0) -> tuple[Played | Broken, str]:
    player = Player(LAB.experiment(""), [Job("main", (), MINE)], code.encode(), limit_s)
    try:
        plays = player.end()
    finally:
        player.close()
    return plays.outcomes[0], plays.printed


@pytest.mark.parametrize(("code", "kind", "word"), [
    (with_lines("return 1 / 0"), "raised", "line 24: ZeroDivisionError"),
    (with_lines("raise SystemExit(0)"), "raised", "SystemExit"),
    (with_lines("import os", "os._exit(0)"), "ended", "too early"),
    (with_lines("return 'pe'"), "answer", "`side` gave 'pe'"),
    (with_lines("pass"), "answer", "`side` gave None"),
    (with_lines("return ("), "load", "line 24"),
    (with_lines("return Side.PE").replace("POLICY =", "NOTHING ="), "load", "POLICY"),
    (with_lines("return Side.PE") + "\nraise SystemExit(3)\n", "load", "SystemExit"),
    ("", "load", "POLICY"),
    (with_lines("return Side.PE").replace(
        "    # ---- your lines end",
        "    def fetch(self, cluster, group):\n        return ()\n\n    # ---- your lines end",
    ), "stuck", "decision"),
])  # fmt: skip
def test_code_that_cannot_be_played_is_told(code: str, kind: str, word: str) -> None:
    outcome, _ = played(code)
    assert isinstance(outcome, Broken)
    assert outcome.kind == kind and word in outcome.what
    assert "Traceback" not in outcome.what


def test_a_loop_without_end_is_given_up_and_named() -> None:
    outcome, _ = played(with_lines("while True: pass"), limit_s=5)
    assert outcome == Broken("loop", "after 5 s it was still at work in `side`")


def test_what_the_code_prints_is_kept_and_harms_nothing() -> None:
    outcome, printed = played(with_lines("print('x' * 999)", "return Side.DE"))
    assert isinstance(outcome, Played) and outcome.failed == 0
    assert printed.startswith("x" * 999) and len(printed) <= 2000


def test_a_fault_is_one_failed_check_and_a_hint(
    begun: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begun(with_lines("return 1000 // request.hit_tokens and Side.PE"))
    assert main(["lab", "check", str(folder), "--hints", "3"]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "no run" in said.out and "`side` gave 0" in said.out


def test_lines_elsewhere_fail_the_file_and_nothing_else(
    begun: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    result = checked(begun(SOLUTION + "\nOTHER = 1\n"), capsys, 1)
    assert [check["id"] for check in result["checks"] if not check["passed"]] == ["file"]
    assert "below your lines" in result["checks"][0]["hint"]["stages"][0]


def test_a_report_is_one_file_with_answers_and_code(solved: tuple[LabFolder, Result]) -> None:
    folder, result = solved
    answers = folder.path / "answers.md"
    before = answers.read_text()
    assert unanswered(folder)
    answers.write_text(before.replace("?\n", "?\n   The NIC of pe0 was full.\n", 1))
    assert not unanswered(folder)
    text = report(folder, result)
    answers.write_text(before)
    for part in ("Student: ada", "10 of 10", "The NIC of pe0 was full", "class MyReadPath", "█"):
        assert part in text


def test_a_class_is_a_table(
    tmp_path: Path,
    solved: tuple[LabFolder, Result],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, result = solved
    checked_folders = []

    def checked_before(one: LabFolder, limit_s: float) -> Result:
        checked_folders.append(one.student)
        return result

    monkeypatch.setattr("testbed.labs.report.check_folder", checked_before)
    for name in ("a", "b"):
        shutil.copytree(folder.path, tmp_path / "class" / name)
    (tmp_path / "class" / "c").mkdir()
    assert main(["lab", "check", "--class", str(tmp_path / "class")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert checked_folders == ["ada", "ada"]
    assert [row["folder"] for row in rows] == ["a", "b", "c"]
    assert [row["points"] for row in rows] == ["10", "10", ""]
    assert [row["same_code_as"] for row in rows] == ["", "a", ""]
    assert "lab.json" in rows[2]["error"]


def test_nothing_is_overwritten_and_bad_input_is_one_line(
    tmp_path: Path, begun: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begun()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "lab.json").write_text('{"lab": "idle-snic"}')
    for words in (
        ["start", "idle-snic", str(folder)],
        ["start", "idle", str(tmp_path / "other")],
        ["start", "idle-snic", str(tmp_path / "other"), "--student", "a b"],
        ["check", str(tmp_path / "other")],
        ["check", str(tmp_path)],
        ["report", str(tmp_path / "other")],
        ["check", "--class", str(tmp_path / "other")],
        ["check", "--class", "--json", str(tmp_path)],
    ):
        assert main(["lab", *words]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("testbed: ") and said.err.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not (tmp_path / "other").exists()


def test_the_published_schema_is_that_of_the_code() -> None:
    """After a change: python -m testbed.labs.result > docs/labs/check.schema.json"""
    assert json.loads((PAGES / "check.schema.json").read_text()) == json.loads(
        json.dumps(json_schema())
    )


def test_labs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "list", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == "idle-snic" and found["minutes"] == 30


def test_what_the_code_starts_ends_with_it(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"  # at its end when nobody holds it open for writing
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = f"import os, time\nalive = open({str(fifo)!r}, 'w')\nif not os.fork():\n"
    outcome, _ = played(code + "    time.sleep(600)\nos._exit(0)\n")
    assert isinstance(outcome, Broken) and outcome.kind == "ended"
    assert os.read(end, 1) == b""
    os.close(end)
