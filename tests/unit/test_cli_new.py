"""`testbed new policy`: a file that runs as it is, and none is ever overwritten."""

import re
from pathlib import Path

import pytest

from scheduler.cluster import Cluster
from scheduler.lookup import lookup, names
from scheduler.types import ClusterSpec, EngineSpec, Request, Side
from testbed.cli.main import main
from testbed.policies import choose
from testbed.session import play
from testbed.spec import load_experiment
from testbed.workload import build_workload

BOOKS = (
    "    # What the books offer: what engines and nodes last reported, with all that was decided "
    "since."
)
FILE = Path(__file__).parents[2] / "topologies" / "1p2d.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*words: str) -> int:
    return main(["new", "policy", *words])


def test_a_starter_decides_as_the_policy_that_it_is_made_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new("my_policy") == 0
    said = capsys.readouterr()
    assert said.out == "my_policy.py\n"
    assert said.err.endswith("--policies dualpath,my_policy.py:MyPolicy\n")
    few = ["workload.agents=60", "workload.turns=2", "scale.time_scale=1"]
    experiment = load_experiment(FILE, few)
    workload = build_workload(experiment.workload, 0)
    policies = choose(["dualpath", "my_policy.py:MyPolicy"])
    found = play(experiment, "x", workload, policies, folder, lambda *_: None, "virtual")
    events = [
        (Path(found.folder) / policy.folder / "events.jsonl").read_bytes() for policy in policies
    ]
    assert events[0] == events[1] and events[0].count(b'"decided"') == 120


@pytest.mark.parametrize("base", names())
def test_every_policy_can_be_begun_with(base: str, folder: Path) -> None:
    assert new("mine", "--from", base) == 0
    for word in ("mine.py", "mine.py:Mine"):
        made = lookup(word)
        assert made.traits == lookup(base).traits
        assert type(made).__mro__[1] is type(lookup(base))
    assert all(len(line) <= 100 for line in Path("mine.py").read_text().splitlines())


def test_all_that_the_starter_says_of_the_books_is_there(folder: Path) -> None:
    assert new("mine") == 0
    lines = Path("mine.py").read_text().splitlines()
    said: dict[str, str] = {}
    for line in lines[lines.index(BOOKS) :]:
        if found := re.fullmatch(r"    #   ([\w.]+)  +(.*)", line):
            about = found[1]
            said[about] = found[2]
        elif found := re.fullmatch(r"    #    {8,}(.*)", line):
            said[about] += f" {found[1]}"
    engine = EngineSpec("p/0", Side.PE, "p", "pes", 640)
    other = EngineSpec("d/0", Side.DE, "d", "des", 640)
    cluster = Cluster(ClusterSpec((engine, other), 64, 1000, 1000))
    book = cluster.engines["p/0"]
    books = {
        "request": Request(1, 1, 1, 64, 64, 1), "cluster": cluster, "engine": book,
        "node": book.node, "group": book.group, "cluster.spec": cluster.spec,
        "engine.last": book.last, "node.last": book.node.last,
    }  # fmt: skip
    assert said.keys() == books.keys()
    for name, words in said.items():
        bare = re.sub(r"\([^)]*\)", "", words)
        for word in re.findall(r"\w+_\w+|\bid\b|\bseed\b", bare):
            assert hasattr(books[name], word), (name, word)


def test_the_class_may_be_called_as_its_base(folder: Path) -> None:
    assert new("dual_path") == new("basic", "--from", "basic") == 0
    assert isinstance(lookup("dual_path.py:DualPath"), type(lookup("dualpath")))
    assert isinstance(lookup("basic.py:Basic"), type(lookup("basic")))


@pytest.mark.parametrize(("words", "says"), [
    (["mine"], "mine.py is there already; choose another name or remove it"),
    (["mine.py"], "mine.py is there already"),
    (["../mine"], "'../mine' is no name for a policy"),
    (["1st"], "'1st' is no name for a policy"),
    (["random"], "'random' is a module of Python's or the testbed's"),
    (["scheduler.py"], "'scheduler.py' is a module of Python's or the testbed's"),
    (["none"], "'none' is no name for a policy"),
    ([""], "'' is no name for a policy"),
    (["other", "--from", "dualpth"], "did you mean 'dualpath'"),
    (["other", "--from", "basic+layerwise"], "Ablation is made with arguments"),
    (["other", "--from", "mine.py"], "--from mine.py: copy the file instead"),
])  # fmt: skip
def test_what_cannot_be_written_is_bad_input_and_changes_nothing(
    words: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text("kept")
    assert new(*words) == 2
    said = capsys.readouterr()
    assert said.out == "" and says in said.err and len(said.err.splitlines()) == 1
    assert [file.name for file in folder.iterdir()] == ["mine.py"]
    assert (folder / "mine.py").read_text() == "kept"
