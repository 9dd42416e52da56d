"""Every command that a page shows works; long ones are run with fewer agents."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from cluster import ROOT, TESTBED, environment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORTER = ["--time-scale", "1"]
FEWER = ("workload.agents=12", "workload.turns=1")


def commands(page: Path) -> list[str]:
    """Lines of the page's `sh` blocks, without comments."""
    found = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in found for line in block.splitlines()]
    return [line for line in lines if line]


SHOWN = sorted({line for page in PAGES for line in commands(page)})


@pytest.mark.parametrize("line", [line for line in SHOWN if line.startswith("testbed ")])
def test_a_command_on_a_page_works(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)[1:]
    if words[0] == "explain":
        play_before(words[1], tmp_path)
    if words[0] in ("run", "compare"):
        words += ["--require", "functional", *([] if "virtual" in words else SHORTER)]
    if words[0] in ("run", "compare", "whatif"):
        words += [word for setting in FEWER for word in ("--set", setting)]
    if words[0] in ("run", "compare", "clean", "sweep", "explain"):
        words += ["--runs", str(tmp_path / "runs")]
    must_work(words, tmp_path)


def must_work(words: list[str], tmp_path: Path) -> None:
    ended = subprocess.run(
        [*TESTBED, *words], cwd=ROOT, env=environment(tmp_path / "cache"), capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout


def play_before(run: str, tmp_path: Path) -> None:
    """A finished run of that name, for a command that looks at one."""
    file, runs = f"topologies/{run}.yaml", str(tmp_path / "runs")
    words = ["compare", file, "--world", "virtual", "--require", "functional", "--runs", runs]
    must_work([*words, "--set", "workload.agents=80"], tmp_path)


@pytest.mark.parametrize("line", [line for line in SHOWN if not line.startswith("testbed ")])
def test_a_script_on_a_page_is_there_and_parses(line: str) -> None:
    words = shlex.split(line)
    if words[0] in (".", "pip"):
        return  # the environment that scripts/setup makes; tests/virtual/test_wheels.py
    script = ROOT / words[0]
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


def test_the_pages_show_commands() -> None:
    assert len(SHOWN) > 5
