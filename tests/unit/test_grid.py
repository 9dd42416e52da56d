"""Grid files: their product, where experiments are found, and complaints that name the line."""

from pathlib import Path

import pytest

from testbed import content
from testbed.errors import InputError
from testbed.spec_workload import FixedWorkload
from testbed.sweep.grid import Point, columns, read_points

PACKAGED = Path(__file__).parents[2] / "topologies"


def points(tmp_path: Path, text: str, *settings: str, world: str = "virtual") -> list[Point]:
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    return read_points(file, settings, world, lambda *_: None)


def complaint(tmp_path: Path, text: str, *settings: str) -> str:
    with pytest.raises(InputError) as raised:
        points(tmp_path, text, *settings)
    assert [file.name for file in tmp_path.iterdir()] == ["grid.yaml"]
    return str(raised.value).replace(f"{tmp_path}/", "")


def test_the_product_is_played(tmp_path: Path) -> None:
    found = points(
        tmp_path,
        "experiment: 1p1d.yaml\npolicies: [basic, static-split]\nshapes: [1P2D, 2p1d]\n"
        "loads: [3, 6, 9]\nseeds: [0, 4]\nset:\n  hardware.snic_share: [0.35, 0.7]\n"
        "  qos: [false]\n",
    )
    assert len(found) == 2 * 2 * 3 * 2 * 2 == len({point.digest for point in found})
    assert {point.shape for point in found} == {"1P2D", "2P1D"}
    last = found[-1]
    assert (last.policy.name, last.experiment.seed) == ("static-split", 4)
    assert isinstance(last.experiment.workload, FixedWorkload)
    assert last.experiment.workload.agents == 9
    assert last.experiment.hardware.snic_share == 0.7 and not last.experiment.qos
    assert columns(last) == {
        "shape": "2P1D", "prefill_nodes": 2, "decode_nodes": 1, "policy": "static-split",
        "agents": 9, "aps": None, "seed": 4, "hardware.snic_share": 0.7, "qos": False,
    }  # fmt: skip


def test_the_packaged_grid_is_valid() -> None:
    found = read_points(PACKAGED / "grids" / "load.yaml", (), "virtual", lambda *_: None)
    assert len(found) == 30 and {point.shape for point in found} == {"1P1D", "1P2D", "2P1D"}


def test_what_is_left_out_stays_as_the_experiment_says(tmp_path: Path) -> None:
    found = points(tmp_path, "experiment: 1p2d.yaml")
    assert [point.policy.name for point in found] == ["basic", "dualpath"]
    assert found[0].shape == "1P2D" and found[0].experiment.workload.agents == 1200


def test_rates_of_arrival_are_a_load(tmp_path: Path) -> None:
    found = points(tmp_path, "experiment: 1p1d.yaml\naps: [0.5, 2]\n", "workload.agents=4")
    assert [columns(point)["aps"] for point in found] == [0.5, 0.5, 2, 2]
    assert found[0].digest != found[2].digest


def test_an_experiment_beside_the_grid_comes_first(tmp_path: Path) -> None:
    text = (PACKAGED / "1p1d.yaml").read_text().replace("900", "5")
    (tmp_path / "1p1d.yaml").write_text(text)
    assert points(tmp_path, "experiment: 1p1d.yaml")[0].experiment.workload.agents == 5
    named = points(tmp_path, "experiment: topologies/1p1d.yaml")[0]
    assert named.experiment.workload.agents == 900


def test_time_has_a_scale_in_the_emulated_world_alone(tmp_path: Path) -> None:
    text = "experiment: 1p1d.yaml\nset: {scale.time_scale: [2, 4]}\npolicies: [basic]\n"
    found = points(tmp_path, text, world="emulated")
    assert [point.experiment.scale.time_scale for point in found] == [2, 4]
    assert complaint(tmp_path, text).startswith("grid.yaml:2: scale.time_scale says nothing")


def test_the_digest_is_that_of_what_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "experiment: 1p1d.yaml\nloads: [3]\npolicies: [basic]\n"
    (first,) = points(tmp_path, text)
    (same,) = points(tmp_path, text.replace("[3]", "[3, 4]"))[:1]
    (told,) = points(tmp_path, text.replace("loads: [3]\n", ""), "workload.agents=3")
    (seed,) = points(tmp_path, text + "seeds: [1]")
    (emulated,) = points(tmp_path, text, "scale.time_scale=1.0", world="emulated")
    monkeypatch.setattr(content, "code_digest", lambda: "other code")
    (changed,) = points(tmp_path, text)
    assert first.digest == same.digest == told.digest
    assert len({point.digest for point in (first, seed, emulated, changed)}) == 4


@pytest.mark.parametrize(("lines", "said"), [
    ("loads: [10, 0]", "grid.yaml:2: workload.agents is 0; it must be a whole number at least 1"),
    ("loads: 10", "grid.yaml:2: loads is 10; it must be a list"),
    ("loads: []", "grid.yaml:2: loads has no values"),
    ("loads: [2.5]", "grid.yaml:2: loads.0 is 2.5; it must be a whole number"),
    ("aps: [-1]", "grid.yaml:2: workload.aps is -1.0"),
    ("seeds: [1, 1]", "grid.yaml:2: seeds has 1 twice"),
    ("shapes: [1P1D, 1p1d]", "grid.yaml:2: shapes has '1P1D' twice"),
    ("shapes:\n- 1P1D\n- 2X", "grid.yaml:4: shape '2X' is not P/D in nodes"),
    ("shapes: [9999P1D]", "grid.yaml:2: cluster.prefill_nodes is 9999"),
    ("polices: [basic]", "grid.yaml:2: unknown key 'polices'"),
    ("policies: []", "grid.yaml:2: policies has no values"),
    ("policies: [basic, dualpth]", "grid.yaml:2: there is no policy 'dualpth'"),
    ("set:\n  hardware.snic_shar: [1]", "grid.yaml:3: unknown key 'snic_shar'"),
    ("set:\n  hardware.snic_share: [[1]]", "grid.yaml:3: set.hardware.snic_share.0 is a list"),
    ("set: [1]", "grid.yaml:2: set is a list; it must be a section"),
    ("set: {workload.agents: [4]}", "grid.yaml:2: workload.agents has an axis of its own; write it "
     "as loads"),
    ("seeds: [" + ",".join(map(str, range(6000))) + "]", "grid.yaml: has 12,000 points"),
])  # fmt: skip
def test_a_complaint_names_the_line_of_the_grid(tmp_path: Path, lines: str, said: str) -> None:
    assert complaint(tmp_path, f"experiment: 1p1d.yaml\n{lines}").startswith(said)


def test_no_experiment_is_a_complaint(tmp_path: Path) -> None:
    assert "key 'experiment' is missing" in complaint(tmp_path, "loads: [1]")
    said = complaint(tmp_path, "experiment: 9p9d.yaml")
    assert said.startswith("grid.yaml:1: no experiment '9p9d.yaml'") and "1p1d.yaml" in said


def test_a_point_that_fits_into_no_memory_is_named(tmp_path: Path) -> None:
    text = (
        "experiment: 1p1d.yaml\nloads: [3]\n"
        "set: {workload.cached_tokens: [30000, 3000000]}\nseeds: [5]"
    )
    said = complaint(tmp_path, text)
    assert said.startswith(
        "grid.yaml: at workload.cached_tokens=3000000, workload.agents=3, seed=5"
    )
    assert "longest context" in said


def test_settings_of_all_points_are_named_as_such(tmp_path: Path) -> None:
    text = "experiment: 1p1d.yaml\nloads: [3]\n"
    assert complaint(tmp_path, text, "a.b=1").startswith("--set a.b=1: ")
    said = complaint(tmp_path, text, "workload.agents=4")
    assert said == (
        "--set workload.agents=4: workload.agents is set by the grid's loads; change it there"
    )


def test_blanks_around_a_key_are_refused(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text('experiment: 1p1d.yaml\nset: {" scale.layers": [1]}\n')
    with pytest.raises(InputError, match=r"grid\.yaml:2: ' scale\.layers' has blanks around it"):
        read_points(grid, [], "virtual", lambda *_: None)
