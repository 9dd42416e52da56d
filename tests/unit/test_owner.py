"""Whose files are whose under sudo."""

import os
from pathlib import Path

import pytest

from testbed import owner

UID, GID = 47110, 47111


@pytest.fixture(autouse=True)
def under_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", str(UID))
    monkeypatch.setenv("SUDO_GID", str(GID))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_was_made_is_handed_over_and_nothing_around_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("root's")
    made = tmp_path / "new" / "runs"
    owner.created(made)
    made.mkdir(parents=True)
    (made / "file").write_text("x")
    (made / "link").symlink_to(kept)
    (made / "other").write_text("somebody else's")
    os.chown(made / "other", 7, 7)
    owner.hand_over()
    given = [tmp_path / "new", made, made / "file", made / "link"]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in given} == {(UID, GID)}
    assert kept.stat().st_uid == tmp_path.stat().st_uid == 0
    assert (made / "other").stat().st_uid == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_that_never_came_and_one_that_is_a_link_are_passed_over(tmp_path: Path) -> None:
    aim = tmp_path / "aim"
    aim.mkdir()
    (tmp_path / "link").symlink_to(aim)
    owner.created(tmp_path / "never")
    owner.created(tmp_path / "link")
    owner.hand_over()
    assert aim.stat().st_uid == 0


@pytest.mark.parametrize("value", [None, "0", "forged"])
def test_without_sudo_or_as_root_nobody_is_the_caller(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("SUDO_UID")
    else:
        monkeypatch.setenv("SUDO_UID", value)
    assert owner.caller() is None
    assert owner.home() == Path.home()
