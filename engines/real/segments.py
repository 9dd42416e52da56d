"""Append-only segment files of the block store; the index says which bytes of them count."""

import os
from pathlib import Path
from typing import NamedTuple

from engines.errors import StoreError

Bytes = bytes | memoryview


class Place(NamedTuple):
    """Where bytes lie: number of the segment file, offset in it."""

    segment: int
    offset: int


class Segments:
    """Files of at most `segment_bytes`; everything behind `tail` is torn and forgotten."""

    def __init__(self, folder: Path, segment_bytes: int, tail: Place) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._files: dict[int, int] = {}
        self.tail = tail
        self._cut_torn_tail()

    def room_bytes(self) -> int:
        """What still fits behind the tail; the next append of more opens a new segment."""
        return self._segment_bytes - self.tail.offset

    def roll(self) -> None:
        """Go on in a new segment."""
        self.tail = Place(self.tail.segment + 1, 0)

    def append(self, data: Bytes) -> Place:
        """Write behind the tail; the caller moves `tail` once the index knows of it."""
        file, place = self._file(self.tail.segment), self.tail
        view, written = memoryview(data), 0
        try:
            while written < len(view):
                written += os.pwrite(file, view[written:], place.offset + written)
        except OSError as error:
            raise StoreError(
                f"cannot append {len(view)} bytes to {self._path(place.segment)}: {error}; "
                "free space on the run's disk"
            ) from error
        return place

    def read_into(self, target: memoryview, place: Place) -> None:
        """Fill `target` from `place`; StoreError if the file is shorter."""
        file, done = self._file(place.segment), 0
        while done < len(target):
            got = os.preadv(file, [target[done:]], place.offset + done)
            if got == 0:
                raise StoreError(
                    f"{self._path(place.segment)} ends before offset {place.offset + len(target)} "
                    "that its index names; the store's folder was damaged, delete it"
                )
            done += got

    def sync(self) -> None:
        """Push the last segment, and its name in the folder, to the medium."""
        os.fsync(self._file(self.tail.segment))
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _cut_torn_tail(self) -> None:
        file = self._file(self.tail.segment)
        size = os.fstat(file).st_size
        if size < self.tail.offset:
            self.close()
            raise StoreError(
                f"{self._path(self.tail.segment)} has {size} bytes, its index names "
                f"{self.tail.offset}; the store's folder was damaged, delete it"
            )
        os.ftruncate(file, self.tail.offset)
        for path in self._folder.glob("segment-*"):
            if int(path.name.removeprefix("segment-")) > self.tail.segment:
                path.unlink()

    def _file(self, segment: int) -> int:
        file = self._files.get(segment)
        if file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            file = self._files[segment] = os.open(self._path(segment), flags, 0o644)
        return file

    def _path(self, segment: int) -> Path:
        return self._folder / f"segment-{segment:06d}"
