"""The table: lines that survive whatever cuts the last one, and move aside when the grid does."""

import json
from pathlib import Path

import pytest

from testbed.errors import InputError
from testbed.sweep.table import EARLIER, TABLE, Line, opened


def line(key: str, **more: object) -> Line:
    return {"turns_per_s": 1.5, "error": None, "key": key, **more}


def fill(folder: Path, *lines: Line) -> None:
    with opened(folder) as table:
        for one in lines:
            table.add(one)


def keys(folder: Path, name: str = TABLE) -> list[str]:
    path = folder / name
    if not path.exists():
        return []
    return [json.loads(text)["key"] for text in path.read_text().splitlines()]


@pytest.mark.parametrize("tail", ['{"key": "c", "turns', "\x00\x00", '{"key": "c"}x', "[1]"])
def test_a_torn_last_line_is_dropped_and_its_point_is_not_there(tmp_path: Path, tail: str) -> None:
    folder = tmp_path / "s"
    fill(folder, line("a"), line("b"))
    with (folder / TABLE).open("a") as file:
        file.write(tail)
    with opened(folder) as table:
        assert table.torn == 1
        assert list(table.arrange(["a", "b", "c"])) == ["a", "b"]
        table.add(line("c"))
        assert table.finish(["c", "a", "b"]) == [line("c"), line("a"), line("b")]
    assert keys(folder) == ["c", "a", "b"]


def test_points_of_another_grid_move_aside_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    fill(folder, line("a"), line("b"), line("c"))
    with opened(folder) as table:
        assert list(table.arrange(["c", "d"])) == ["c"]
    assert keys(folder) == ["c"] and keys(folder, EARLIER) == ["a", "b"]
    with opened(folder) as table:
        assert list(table.arrange(["b", "c"])) == ["b", "c"]
    assert keys(folder) == ["b", "c"] and keys(folder, EARLIER) == ["a"]


def test_a_point_that_failed_is_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    fill(folder, line("a"), line("b", error="RunFailed: no"))
    with opened(folder) as table:
        assert list(table.arrange(["a", "b"])) == ["a"]
    assert keys(folder) == ["a"] and keys(folder, EARLIER) == []


def test_what_json_cannot_say_is_null_at_once(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as table:
        table.add(line("a", bound_turns_per_s=float("inf")))
        (found,) = table.finish(["a"])
    assert found["bound_turns_per_s"] is None


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path / "s"), pytest.raises(InputError, match="in use by another sweep"):  # noqa: SIM117
        with opened(tmp_path / "s"):
            pass
    with opened(tmp_path / "s") as table:
        assert table.arrange([]) == {}


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / TABLE).write_text("mine")
    with pytest.raises(InputError, match="no sweep's"), opened(tmp_path):
        pass
    assert (tmp_path / TABLE).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give other --runs"), opened(tmp_path / "file" / "s"):
        pass
