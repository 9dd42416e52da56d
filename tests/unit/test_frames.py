"""Frames: what goes in comes out, and what is not ours is refused with a reason."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import TransferError
from engines.kv import Extent, Span
from engines.layout import KvLayout
from engines.messages import Assign, Drain, Read, Start, Submit
from engines.real import frames
from engines.real.frames import HEADER_BYTES, NOTE_LIMIT_BYTES, Doorbell, Header, Kind
from scheduler.types import Decision, Request

U64 = st.integers(0, (1 << 64) - 1)


@given(
    U64, st.integers(0, (1 << 32) - 1), st.integers(-1, (1 << 63) - 1), st.integers(-1, 999), U64
)
def test_a_header_survives_the_wire(
    run_id: int, epoch: int, request: int, layer: int, sequence: int
) -> None:
    header = Header(Kind.WRITE, 2, 1, run_id, epoch, request, layer, 5, sequence, 64, 1 << 31)
    data = frames.pack(*header)
    assert len(data) == HEADER_BYTES <= 64
    assert frames.unpack(b"xx" + data, 2) == header


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_noise_is_no_header(noise: bytes) -> None:
    if noise[:4] != frames.MAGIC:
        with pytest.raises(TransferError):
            frames.unpack(noise)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_only_known_kinds_classes_and_orders_pass(kind: int, cls: int, order: int) -> None:
    data = frames.pack(kind, cls, order, 1, 1, 1, 0, 0, 0, 0, 0)
    if 1 <= kind <= 5 and cls <= 2 and order <= 1:
        assert frames.unpack(data).kind == kind
    else:
        with pytest.raises(TransferError, match="unknown"):
            frames.unpack(data)


def test_a_note_over_the_limit_is_refused() -> None:
    over = Header(Kind.MESSAGE, 0, 0, 1, 1, 1, 0, 0, 0, NOTE_LIMIT_BYTES + 1, 0)
    with pytest.raises(TransferError, match=str(NOTE_LIMIT_BYTES)):
        frames.unpack(frames.pack(*over))


@given(st.binary(max_size=80))
def test_malformed_notes_are_typed_errors(noise: bytes) -> None:
    for decode in (frames.decode_message, frames.decode_doorbell, frames.decode_hello):
        try:
            decode(noise)
        except TransferError as error:
            assert "malformed" in str(error)


def test_notes_survive_the_wire() -> None:
    span = Span("dram", 64, 0, 640, 1, 2)
    read = Read(4, (Extent((1 << 64) - 1, 3, 4),), span)
    assert frames.decode_message(frames.encode(read)) == read
    bell = Doorbell(read, span)
    assert frames.decode_doorbell(memoryview(frames.encode(bell))) == bell
    assert frames.decode_arrival(frames.encode_arrival(1.25)) == 1.25
    with pytest.raises(TransferError, match="instead of 8"):
        frames.decode_arrival(b"")


def test_frames_name_the_request_they_are_about() -> None:
    turn = Submit(Request(42, 1, 0, 64, 0, 1, (), 4), os.urandom(8))
    assign = Assign(Decision(1, 42, "p", "d", ()), turn)
    assert [frames.request_of(m) for m in (turn, assign, Start(7), Drain())] == [42, 42, 7, -1]
    span = Span("r", 0, 0, 64, 0, 4)
    assert (frames.layer_of(span), frames.layer_of(span.layer(2))) == (-1, 2)


def test_only_whole_full_blocks_lie_in_place() -> None:
    layout = KvLayout(token_scale=16, block_tokens=64, layers=4, width=8)
    whole = Span("r", 64, 64, 192, 0, 4)
    assert frames.in_place(layout, whole)
    assert not frames.in_place(layout, whole.layer(0))
    assert not frames.in_place(layout, whole.tokens(64, 176))
    frames.check_span(layout, whole)
    for bad in (Span("r", 0, 0, 64, 0, 5), Span("r", 0, 0, 64, 2, 2), Span("r", 32, 0, 64, 0, 4)):
        with pytest.raises(TransferError, match="no span"):
            frames.check_span(layout, bad)
