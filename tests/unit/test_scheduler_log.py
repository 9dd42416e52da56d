"""The log of a scheduler's lines: what was written is read, what is damaged is named."""

import gzip
from pathlib import Path

import pytest
from test_protocol import LINES

from scheduler import protocol
from testbed.errors import InputError
from testbed.results.scheduler_log import NAME, log_writer, read_log


def written(path: Path) -> bytes:
    with log_writer(path) as write:
        for line in LINES:
            write(protocol.encode(line))
    return path.read_bytes()


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    packed = written(tmp_path / NAME)
    assert list(read_log(tmp_path / NAME)) == LINES
    (tmp_path / "plain.jsonl").write_bytes(gzip.decompress(packed))
    assert list(read_log(tmp_path / "plain.jsonl")) == LINES


def test_the_same_lines_make_the_same_file(tmp_path: Path) -> None:
    assert written(tmp_path / "a.gz") == written(tmp_path / "b.gz")


def test_what_was_said_before_an_error_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), log_writer(tmp_path / NAME) as write:
        write(protocol.encode(LINES[0]))
        raise RuntimeError
    assert list(read_log(tmp_path / NAME)) == LINES[:1]


@pytest.mark.parametrize(("line", "why"), [
    (b'{"type":"guess"}', "'guess'"), (b'{"type":"g\xffess"}', "(?i:utf-8)"),
    (b'{"type":"decided","x":' + b"[" * 100_000, "recursion"),
])  # fmt: skip
def test_a_line_that_is_none_is_named(line: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(protocol.encode(LINES[0]) + line + b"\n")
    with pytest.raises(InputError, match=rf"some\.jsonl:2: .*{why}"):
        list(read_log(path))


def test_a_log_that_breaks_off_is_named(tmp_path: Path) -> None:
    packed = written(tmp_path / NAME)
    (tmp_path / NAME).write_bytes(packed[:-10])
    with pytest.raises(InputError, match="breaks off"):
        list(read_log(tmp_path / NAME))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.gz: No such file"):
        list(read_log(tmp_path / "none.gz"))
