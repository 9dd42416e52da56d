"""Where there is neither torch nor Mininet nor any other extra, the virtual world runs."""

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from testbed.fabric.pcapng import Pcapng
from testbed.worlds.emulated import PACKAGES

ROOT = Path(__file__).parents[2]


def base_distributions() -> set[str]:
    """What `pip install .` brings: the project's plain dependencies, and theirs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    waiting = [Requirement(line) for line in project["dependencies"]]
    while waiting:
        wanted = waiting.pop()
        needed = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if needed and wanted.name not in found:
            found.add(wanted.name)
            waiting += [Requirement(line) for line in metadata.requires(wanted.name) or ()]
    return found


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds these distributions and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in base_distributions():
        for file in metadata.files(name) or ():
            top = file.parts[0]
            if top != ".." and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(metadata.distribution(name).locate_file(top))))
    return folder


def call(packages: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(packages)!r}]; "
        "from testbed.cli.main import main; sys.exit(main())"
    )
    # -I and -S: neither the environment's nor the machine's packages can be seen.
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *words],
        capture_output=True, text=True, timeout=100, check=False, cwd=packages,
    )  # fmt: skip


def test_the_extras_are_not_there(packages: Path) -> None:
    for name in (*PACKAGES, "matplotlib"):
        assert not list(packages.glob(f"{name}*")), name


def test_a_comparison_runs_in_virtual_time(packages: Path, tmp_path: Path) -> None:
    experiment = str(ROOT / "topologies/1p2d.yaml")
    ended = call(
        packages, "compare", experiment, "--world", "virtual", "--json", "--require", "functional",
        "--runs", str(tmp_path), "--set", "workload.agents=24",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["verdict"]["functional"] == "passed"


@pytest.mark.parametrize("words", [["doctor"], ["run", str(ROOT / "topologies/1p2d.yaml")]])
def test_the_emulated_world_says_what_it_lacks(
    packages: Path, tmp_path: Path, words: list[str]
) -> None:
    more = ["--runs", str(tmp_path)] if words[0] == "run" else []
    ended = call(packages, *words, *more)
    assert ended.returncode == 4, ended.stderr
    said = ended.stdout + ended.stderr
    assert "torch" in said and "--world virtual" in said


def test_a_sweep_runs_without_a_picture_and_says_why(packages: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("experiment: 1p2d.yaml\nloads: [6]\npolicies: [basic]\n")
    ended = call(packages, "sweep", str(grid), "--json", "--runs", str(tmp_path / "runs"))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["completed_turns"] == 12
    assert "pip install matplotlib" in ended.stderr
    assert not list(tmp_path.glob("**/*.png"))


def test_validate_and_help_work(packages: Path) -> None:
    assert call(packages, "validate", str(ROOT / "topologies/1p2d.yaml")).returncode == 0
    assert "Verbs" in call(packages, "--help").stdout


REFUSE = """
import importlib.abc, socket, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("engines.real", "torch", "lmdb", "mininet", "pyroute2", "uvloop")):
            raise ImportError(f"{name} is refused here")

class NoSocket(socket.socket):
    def __init__(self, *words, **named):
        raise AssertionError("a socket was asked for")

sys.meta_path.insert(0, Refuse())
socket.socket = socket.socketpair = socket.create_connection = NoSocket
"""


def test_engines_and_scheduler_run_without_our_real_sides_and_without_a_socket(
    tmp_path: Path,
) -> None:
    program = REFUSE + (
        "from testbed.cli.main import main\n"
        "code = main()\n"
        "assert not [name for name in sys.modules if name.startswith('engines.real')]\n"
        "assert 'engines.prefill' in sys.modules and 'scheduler.scheduler' in sys.modules\n"
        "sys.exit(code)\n"
    )
    words = [
        "compare",
        str(ROOT / "topologies/1p2d.yaml"),
        "--world",
        "virtual",
        "--json",
        "--require",
        "functional",
        "--runs",
        str(tmp_path),
        "--set",
        "workload.agents=24",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True, text=True, timeout=100, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["verdict"]["functional"] == "passed"


@pytest.mark.parametrize("name", ["engines.real.tcp", "torch"])
def test_what_is_refused_is_refused(name: str) -> None:
    program = f"{REFUSE}import {name}"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ended.returncode == 1 and "is refused here" in ended.stderr


def test_a_capture_is_decoded(packages: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with path.open("wb") as file:
        written = Pcapng(file.fileno(), "pe0-buf:snic", 1 << 18)
        written.packet(1000, bytes(60), 60, outgoing=True)
        written.end(1000, 1, 0)
    ended = call(packages, "capture", "--read", str(path), "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["summary"]["packets"] == 1
