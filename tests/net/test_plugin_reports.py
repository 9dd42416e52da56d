"""What pytest's user is told: marks that are not there, errors in one line, what was kept."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from residue import Outside

EXAMPLE = Path(__file__).parents[2] / "docs/examples/pytest/test_my_server.py"
MARKING = re.compile(r"^    fabric\.mark\(.*\n", re.MULTILINE)

TESTS = """
import pytest

def talk(fabric):
    hear = "import socket; s = socket.create_server(('', 9000)); s.accept(); print('heard')"
    say = "import socket, sys; socket.create_connection((sys.argv[1], 9000)).send(bytes(9))"
    hearer = fabric.popen("store0", ["python3", "-c", hear])
    fabric.popen("store0", ["true"])
    fabric.wait_listening("store0", 9000)
    fabric.run("pe0-buf", ["python3", "-c", say, fabric.address("store0", "snic")])
    assert hearer.wait(20) == 0

@pytest.mark.capture("pe0-buf:snic")
@pytest.mark.parametrize("name", ["KV", "MODEL", "unmarked"])
def test_marks(fabric, name):
    if name != "unmarked":
        fabric.mark(9000, name)
    talk(fabric)
    seen = fabric.marks_seen("pe0-buf:snic")
    assert list(seen) == [name] and seen[name] > 9

def test_fails(fabric):
    fabric.link("store0:snic").set(rate="50Mbps")
    talk(fabric)
    fabric.ledger.assert_class("store0:snic", "KV", at_least=9, others_at_most=0)
    fabric.link("pe0-buf:snc")

@pytest.mark.experiment("nosuch")
def test_has_no_experiment(fabric):
    pass
"""


class Ended:
    """A pytest run in a folder of its own."""

    def __init__(self, folder: Path, text: str) -> None:
        own = Outside(folder)
        (folder / "test_it.py").write_text(text)
        plugin = ["-p", "no:cacheprovider", "-W", "error", "--junitxml", "junit.xml"]
        if not [entry for entry in entry_points(group="pytest11") if entry.name == "dualpath"]:
            plugin += ["-p", "testbed.pytest_plugin"]  # the package was installed before it had one
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "test_it.py", *plugin, "--dualpath-summary", "sum.md"],
            cwd=folder, env=own.env, capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        self.code, self.said = ended.returncode, ended.stdout + ended.stderr
        self.rows = (folder / "sum.md").read_text().splitlines()
        self.properties = [
            (one.get("name"), one.get("value"))
            for one in ET.parse(folder / "junit.xml").getroot().iter("property")
        ]


def test_the_example_fails_without_its_mark(tmp_path: Path) -> None:
    text, removed = MARKING.subn("", EXAMPLE.read_text())
    assert removed == 1
    ended = Ended(tmp_path, text)
    assert ended.code == 1
    assert "carried 0 payload bytes of MODEL and CTRL" in ended.said, ended.said


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Tests of which two cannot pass, and where they ran."""
    folder = tmp_path_factory.mktemp("plugin")
    return folder, Ended(folder, TESTS)


def test_captures_tell_every_mark(failed: tuple[Path, Ended]) -> None:
    _, ended = failed
    assert "3 passed" in ended.said and "1 failed" in ended.said and "1 error" in ended.said, (
        ended.said
    )


def test_what_a_failed_test_leaves_is_named(failed: tuple[Path, Ended]) -> None:
    folder, ended = failed
    (kept,) = (folder / "test-failures").iterdir()
    assert kept.name.startswith("test-it.py-test-fails-")
    assert f"kept in {kept}" in ended.said
    logs = {path.name: path.read_text() for path in (kept / "logs").iterdir()}
    assert logs == {"1-store0-python3.log": "heard\n"}  # that of `true` is empty
    assert ("kept in", str(kept.relative_to(folder))) in ended.properties
    assert ("link changed", "store0:snic rate 50Mbps") in ended.properties
    carried = [value for name, value in ended.properties if name == "payload bytes of store0:snic"]
    assert any(value and value.startswith("0 of MODEL and CTRL") for value in carried)


def test_errors_are_shown_at_the_tests_line(failed: tuple[Path, Ended]) -> None:
    _, ended = failed
    assert "no data link pe0-buf:snc; nearest link: 'pe0-buf:snic'" in ended.said
    assert "no experiment 'nosuch'" in ended.said and "1p2d, " in ended.said
    assert "network.py" not in ended.said and "During handling" not in ended.said, ended.said


def test_the_summary_has_a_row_for_each_test(failed: tuple[Path, Ended]) -> None:
    _, ended = failed
    outcomes = [row.split("|")[2].strip() for row in ended.rows if "::" in row]
    assert outcomes == ["passed", "passed", "passed", "failed", "failed"]
