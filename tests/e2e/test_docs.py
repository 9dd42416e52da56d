"""Every command that a page shows works; long ones are run with fewer agents."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster import ROOT, TESTBED, environment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORTER = ["--time-scale", "1"]
FEWER = ("workload.agents=12", "workload.turns=1")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.-]+\.\w+)\n")  # the first line of a block that is a file


class Step(NamedTuple):
    """What a page asks for: a command, or a file to be written."""

    command: str = ""
    file: str = ""
    text: str = ""


def steps(page: Path) -> list[Step]:
    """In the page's order: lines of `sh` blocks without comments, and blocks that name a file."""
    found = []
    for language, block in BLOCK.findall(page.read_text()):
        if language == "sh":
            lines = [line.split(" #")[0].strip() for line in block.splitlines()]
            found += [Step(command=line) for line in lines if line]
        elif named := FILE.match(block):
            found.append(Step(file=named[1], text=block))
    return found


# A page with files, or that brings a cluster up, has a folder of its own, in which its commands
# follow each other.
WALKS = [
    page
    for page in PAGES
    if any(step.file or step.command.startswith("testbed up ") for step in steps(page))
]
SHOWN = sorted({s.command for page in PAGES if page not in WALKS for s in steps(page)})


def ups(page: Path) -> list[str]:
    """Clusters that a page brings up."""
    words = [step.command.split() for step in steps(page)]
    return [Path(word[2]).stem for word in words if word[:2] == ["testbed", "up"]]


def play(line: str, folder: Path, cache: Path, *more: str) -> None:
    """Run a command of a page; long ones with fewer agents."""
    words = shlex.split(line)[1:]
    if words[0] in ("run", "compare", "isolation"):
        words += ["--require", "functional", *([] if "virtual" in words else SHORTER)]
    if words[0] in ("run", "compare", "whatif", "isolation"):
        words += [word for setting in FEWER for word in ("--set", setting)]
    ended = subprocess.run(
        [*TESTBED, *words, *more], cwd=folder, capture_output=True, text=True, timeout=280,
        env={**environment(cache), "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout


@pytest.mark.parametrize("line", [line for line in SHOWN if line.startswith("testbed ")])
def test_a_command_on_a_page_works(line: str, tmp_path: Path) -> None:
    verb, cache, runs = line.split()[1], tmp_path / "cache", ("--runs", str(tmp_path / "runs"))
    if verb == "explain":  # it looks at a finished run, which has its experiment's name
        before = f"testbed compare topologies/{line.split()[2]}.yaml --world virtual"
        play(before, ROOT, cache, *runs, "--set", "workload.agents=80", "--set", "workload.turns=2")
    takes_runs = verb in ("run", "compare", "clean", "sweep", "explain", "isolation")
    play(line, ROOT, cache, *(runs if takes_runs else ()))


# A page with one cluster up does not name it: others' clusters would have to be told apart.
IN_TURN = [
    pytest.param(page, marks=[pytest.mark.alone] if ups(page) else [], id=page.name)
    for page in WALKS
]


@pytest.mark.parametrize("page", IN_TURN)
def test_a_page_with_files_works_from_its_beginning_to_its_end(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "topologies").symlink_to(ROOT / "topologies")
    try:
        for step in steps(page):
            if step.file:
                (folder / step.file).write_text(step.text)
            else:
                play(step.command, folder, tmp_path / "cache")
    finally:  # a cluster of a page that failed half-way; its name is the experiment's
        for name in ups(page):
            subprocess.run([*TESTBED, "down", name], capture_output=True, check=False)


@pytest.mark.parametrize("line", [line for line in SHOWN if line.startswith("pytest ")])
def test_a_test_on_a_page_passes(line: str, tmp_path: Path) -> None:
    plugin = ["-p", "no:cacheprovider", "--require", "functional"]
    if not [entry for entry in entry_points(group="pytest11") if entry.name == "dualpath"]:
        plugin += ["-p", "testbed.pytest_plugin"]  # the package was installed before it had one
    ended = subprocess.run(
        [sys.executable, "-m", *shlex.split(line), *plugin], cwd=ROOT, capture_output=True,
        text=True, timeout=120, env=environment(tmp_path / "cache"), check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


OTHERS = [line for line in SHOWN if not line.startswith(("testbed ", "pytest "))]


@pytest.mark.parametrize("line", OTHERS)
def test_a_script_on_a_page_is_there_and_parses(line: str) -> None:
    words = shlex.split(line)
    if words[0] in (".", "pip"):
        return  # the environment that scripts/setup makes; tests/virtual/test_wheels.py
    script = ROOT / words[0]
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


def test_the_pages_show_commands() -> None:
    assert len(SHOWN) > 5 and WALKS
