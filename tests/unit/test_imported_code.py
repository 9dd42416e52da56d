"""What a policy imports is part of what it is."""

from pathlib import Path

import pytest

from testbed.imports import imported_code
from testbed.policies import choose


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "deeper_help.py").write_text("import json\n")
    file = tmp_path / "some_help.py"
    file.write_text("import deeper_help\nimport some_help\n")
    return file


def test_sources_are_followed_once_each(helper: Path) -> None:
    source = b"import some_help, os.path, scheduler\nfrom some_help import x\nfrom . import y\n"
    assert sorted(imported_code(source)) == sorted(
        file.read_bytes() for file in helper.parent.glob("*_help.py")
    )


def test_a_package_is_all_of_its_files(helper: Path) -> None:
    folder = helper.parent / "help_package"
    (folder / "below").mkdir(parents=True)
    for name in ("__init__", "one", "below/two"):
        (folder / f"{name}.py").write_text(f"# {name}")
    assert len(list(imported_code(b"from help_package.one import x"))) == 3


def test_what_is_installed_counts_by_its_age() -> None:
    (found,) = imported_code(b"def f():\n    import msgspec")
    assert found.startswith(b"msgspec ")


@pytest.mark.parametrize("source", [b"import nowhere_at_all", b"\0", b"import (", b"import sys"])
def test_what_has_no_source_adds_none(source: bytes) -> None:
    assert list(imported_code(source)) == []


def test_a_policy_whose_helper_changed_is_another_one(helper: Path) -> None:
    mine = helper.parent / "mine.py"
    mine.write_text(
        "import some_help\nfrom scheduler.policies.dualpath import DualPath as POLICY\n"
    )
    before, _ = choose([str(mine), "dualpath"])
    helper.write_text("import deeper_help\nspare = 1\n")
    after, _ = choose([str(mine), "dualpath"])
    assert before.digest != after.digest
