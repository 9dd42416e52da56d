"""The table of a sweep: JSON lines that are there for good as soon as they are whole.

A folder has two: `table.jsonl` holds points of the grid as it is now, `earlier.jsonl` those that
it had before, or that other code gave. Both count as played.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from testbed import owner
from testbed.errors import InputError
from testbed.jsontext import decode
from testbed.session import MARK

try:
    import fcntl
except ImportError:  # Windows has no such locks; there nobody else is kept out
    fcntl = None  # type: ignore[assignment]

TABLE, EARLIER = "table.jsonl", "earlier.jsonl"
KEY, ERROR = "key", "error"

Line = dict[str, Any]


@contextmanager
def opened(folder: Path) -> Iterator["Table"]:
    """The table of a folder, which is made if it is not there, for one sweep at a time.

    Raises InputError if it cannot be made, is somebody else's, or is in use.
    """
    if folder.exists() and not (folder / MARK).is_file():
        raise InputError(f"{folder} is there and is no sweep's; give another --name")
    owner.created(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = (folder / MARK).open("a")
    except OSError as error:
        raise InputError(
            f"{folder}: no sweep can be kept there: {error.strerror}; give other --runs"
        ) from error
    with mark:
        try:
            if fcntl is not None:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder} is in use by another sweep; wait for it, or give another --name"
            ) from error
        yield Table(folder)


class Table:
    """Lines by key; `torn` counts those that were dropped because a killed sweep cut them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TABLE
        self._earlier = folder / EARLIER
        self.torn = 0
        self._lines = self._read(self._earlier) | self._read(self.path)

    def arrange(self, keys: Sequence[str]) -> dict[str, Line]:
        """The lines of these points, in this order; all other lines become earlier ones.

        A point that failed is none that was played, and is forgotten.
        """
        played = {key: line for key, line in self._lines.items() if not line.get(ERROR)}
        now = {key: played[key] for key in keys if key in played}
        # Earlier ones first: a line that a kill leaves in both files does no harm.
        _write(self._earlier, {key: line for key, line in played.items() if key not in now})
        _write(self.path, now)
        return now

    def finish(self, keys: Sequence[str]) -> list[Line]:
        """The lines of these points, all of which are there, now also in this order on disk."""
        lines = {key: self._lines[key] for key in keys}
        _write(self.path, lines)
        return list(lines.values())

    def add(self, line: Line) -> None:
        """Append a line in one write that has reached the disk."""
        raw = msgspec.json.encode(line)
        self._lines[line[KEY]] = msgspec.json.decode(raw)  # an infinite number is null in JSON
        with self.path.open("ab") as file:
            file.write(raw + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> dict[str, Line]:
        found: dict[str, Line] = {}
        for raw in path.read_bytes().split(b"\n") if path.exists() else ():
            try:
                line = decode(raw, dict[str, Any])
                found[line[KEY]] = line
            except (msgspec.DecodeError, KeyError):
                self.torn += bool(raw)
        return found


def _write(path: Path, lines: Mapping[str, Line]) -> None:
    """Put lines in the place of a file's, all or none; no file if there are none."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.writelines(msgspec.json.encode(line) + b"\n" for line in lines.values())
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
