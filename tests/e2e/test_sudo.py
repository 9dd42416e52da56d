"""A run under sudo: what it writes belongs to the user who called it, failed runs included."""

import os
from pathlib import Path

import pytest
from cluster import ONE_TURN, arguments, call

UID, GID = 47110, 47111
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sudo mode needs root")


def owners(folder: Path) -> set[tuple[int, int]]:
    found = {folder, *folder.rglob("*")}
    return {(path.lstat().st_uid, path.lstat().st_gid) for path in found}


@pytest.mark.parametrize("privilege", ["sudo", "rootless"])
def test_all_that_a_run_under_sudo_writes_belongs_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privilege: str
) -> None:
    monkeypatch.setenv("SUDO_UID", str(UID))
    monkeypatch.setenv("SUDO_GID", str(GID))
    monkeypatch.setenv("DUALPATH_PRIVILEGE", privilege)
    runs, cache = tmp_path / "deep" / "runs", tmp_path / "cache"
    call(arguments("run", "1p1d.yaml", runs, *ONE_TURN), cache)
    assert len(list(runs.glob("*/*/logs/*.log"))) > 3
    assert (
        next(runs.glob("*/*/lab.log")).read_text().startswith(f"private namespaces: {privilege}\n")
    )
    for folder in (tmp_path / "deep", cache):
        assert owners(folder) == {(UID, GID)}
    assert tmp_path.stat().st_uid == 0  # it was there before
