"""The scheduler's log of a run: the lines of its protocol, as they were said."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from scheduler import protocol
from scheduler.protocol import Line
from testbed.errors import InputError

NAME = "scheduler.jsonl.gz"  # in each policy's folder of a run

# Lines of one run are much alike: the fastest level already makes a seventh of them.
LEVEL = 1
BUFFER_BYTES = 1 << 16
GZIP = b"\x1f\x8b"


@contextmanager
def log_writer(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Takes encoded lines; the same lines make the same file, byte for byte."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
        io.BufferedWriter(packed, BUFFER_BYTES) as lines,
    ):
        yield lines.write


def read_log(path: Path) -> Iterator[Line]:
    """Every line of a log, packed or not; InputError names the line that cannot be read."""
    read = 0
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
        with gzip.open(path) if packed else path.open("rb") as lines:
            for line in lines:
                read += 1
                yield protocol.decode(line)
    except msgspec.MsgspecError as error:
        raise InputError(
            f"{path}:{read}: {error}; it takes lines of the scheduler's protocol, as a run's "
            f"{NAME} has them"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: it breaks off after line {read}: {error}; was its run killed?"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name a run's {NAME}") from error
