"""`testbed clean`: what is ours, by its mark, and the cache only when asked."""

import json
from pathlib import Path

import pytest

from testbed.cli.main import main
from testbed.session import MARK


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder of runs, of which one is not ours, and a cache of two files."""
    runs, cache = tmp_path / "runs", tmp_path / "cache" / "dualpath-testbed"
    for name, mark in (("1p1d-1", True), ("1p1d-2", True), ("mine", False)):
        (runs / name).mkdir(parents=True)
        (runs / name / "experiment.yaml").write_text("cluster: {}")
        if mark:
            (runs / name / MARK).touch()
    cache.mkdir(parents=True)
    for name in ("a", "b"):
        (cache / name).write_bytes(bytes(500_000))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return runs, cache


def test_runs_go_and_the_cache_stays_with_its_size(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, cache = places
    assert main(["clean", "--runs", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "removed 2 run folders" in out
    assert "kept (--cache removes them) 2 cached openings, 1.0 MB" in out
    assert [path.name for path in runs.iterdir()] == ["mine"]
    assert len(list(cache.iterdir())) == 2


def test_a_link_to_a_run_is_not_ours(places: tuple[Path, Path], tmp_path: Path) -> None:
    runs, _ = places
    kept = tmp_path / "kept"
    (runs / "1p1d-1").rename(kept)
    (runs / "link").symlink_to(kept)
    assert main(["clean", "--runs", str(runs)]) == 0
    assert (kept / MARK).exists()


def test_the_cache_goes_when_asked(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, cache = places
    assert main(["clean", "--runs", str(runs), "--cache", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cache_removed"] is True and said["cache_bytes"] == 1_000_000
    assert not list(cache.iterdir())


def test_a_dry_run_removes_nothing(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, cache = places
    assert main(["clean", "--runs", str(runs), "--cache", "--dry-run"]) == 0
    assert "would remove 2 run folders" in capsys.readouterr().out
    assert len(list(runs.iterdir())) == 3 and len(list(cache.iterdir())) == 2
