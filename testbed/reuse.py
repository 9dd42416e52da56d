"""Finished runs that stand for a new one, because all that their result depends on is the same.

Each policy's folder gets a record when it is finished: the last file, written in one step. So
folders of runs that were stopped, or are still played, have none.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from testbed.jsontext import decode
from testbed.results.schema import PolicyResult, Verdict
from testbed.results.verdict import FAITHFUL, PASSED

RECORD = "played-"  # begins the name of a record


class Record(msgspec.Struct, frozen=True):
    """A finished run of one policy, and the names of what its folder holds."""

    result: PolicyResult
    verdict: Verdict
    files: tuple[str, ...]


def keep(folder: Path, digest: str, result: PolicyResult, verdict: Verdict) -> None:
    """Write the record of a run whose folder is complete, unless somebody changed its network."""
    if result.changes:
        return
    files = tuple(sorted(path.name for path in folder.iterdir()))
    raw = msgspec.json.encode(Record(result, verdict, files))
    unfinished = folder / f".{_name(digest)}"
    unfinished.write_bytes(raw)
    unfinished.replace(folder / _name(digest))


def reuse(root: Path, digest: str, real_time: bool, into: Path) -> tuple[Record, Path] | None:
    """A finished run below `root`, copied to the folder `into`, and where it is; or None.

    It was right, and if it was played in real time, its times are to be trusted. Whatever is in
    the way, as somebody who removes it meanwhile, means that there is none.
    """
    for path in _records(root, digest):
        if path.parent.parent == into.parent:
            continue  # this comparison's own: a policy against itself is played twice
        with suppress(OSError, msgspec.MsgspecError):
            record = decode(path.read_bytes(), Record)
            if not _stands(record.verdict, real_time):
                continue
            # Without its record: who asks next shall find the run itself, not a copy.
            shutil.copytree(path.parent, into, ignore=_record)
            if all((into / name).exists() for name in record.files):
                return record, path.parent
        shutil.rmtree(into, ignore_errors=True)
    return None


def _stands(verdict: Verdict, real_time: bool) -> bool:
    return verdict.functional == PASSED and (verdict.timing == FAITHFUL or not real_time)


def _records(root: Path, digest: str) -> Iterator[Path]:
    """Newest first."""
    found = []
    for path in root.glob(f"*/*/{_name(digest)}"):
        with suppress(OSError):
            found.append((os.stat(path).st_mtime_ns, path))
    yield from (path for _, path in sorted(found, reverse=True))


def _record(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(RECORD)]


def _name(digest: str) -> str:
    return f"{RECORD}{digest}.json"
