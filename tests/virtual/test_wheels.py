"""The virtual world installs from a folder of wheels, without an index, and runs there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.worlds.emulated import PACKAGES

ROOT = Path(__file__).parents[2]
PACKAGED = ("engines", "scheduler", "testbed", "topologies")
SOURCES = (*PACKAGED, "pyproject.toml", "README.md", "LICENSE")
PROGRAMS = "Scripts" if os.name == "nt" else "bin"
# Where pip looks for packages is the user's business until the wheels are there, and nobody's then.
OFFLINE = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}


def call(*words: str | Path, env: dict[str, str] | None = None, cwd: Path) -> str:
    ended = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=110, check=False,
        env=env, cwd=cwd,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.timeout(240)
def test_it_runs_from_wheels_alone(tmp_path: Path) -> None:
    source, wheels, home = tmp_path / "source", tmp_path / "wheels", tmp_path / "venv"
    source.mkdir()
    for name in SOURCES:  # a build leaves files beside what it builds
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, source / name)
    call(sys.executable, "-m", "pip", "wheel", "-q", source, "-w", wheels, cwd=tmp_path)
    assert any(file.name.startswith("dualpath_testbed-") for file in wheels.iterdir())
    assert not [file for file in wheels.iterdir() if file.name.startswith(tuple(PACKAGES))]

    call(sys.executable, "-m", "venv", home, cwd=tmp_path)
    programs = home / PROGRAMS
    call(
        programs / "python", "-m", "pip", "install", "-q", "--no-index", "--find-links", wheels,
        "dualpath-testbed", env={**OFFLINE, "PIP_CONFIG_FILE": os.devnull}, cwd=tmp_path,
    )  # fmt: skip
    packaged = call(
        programs / "python", "-c", "import topologies; print(topologies.__path__[0])", cwd=tmp_path
    )
    said = call(
        programs / "testbed", "compare", Path(packaged.strip()) / "1p2d.yaml", "--world",
        "virtual", "--set", "workload.agents=24", "--require", "functional", "--json",
        env=OFFLINE, cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(said)["verdict"]["functional"] == "passed"

    lab = tmp_path / "idle-snic"
    call(programs / "testbed", "lab", "start", "idle-snic", env=OFFLINE, cwd=tmp_path)
    call(programs / "testbed", "lab", "report", env=OFFLINE, cwd=lab)
    assert "2 of 10" in (lab / "report.md").read_text()
