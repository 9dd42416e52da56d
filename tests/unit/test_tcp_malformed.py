"""What the transport refuses, and that each refusal surfaces with its reason."""

import os

import anyio
import numpy as np
import pytest
from tcp_hosts import HELLO, ONE_ROW, bell, dial, filled, frame, pair, run

from engines.errors import TransferError
from engines.kv import Span
from engines.messages import Start
from engines.real import frames
from engines.real.frames import Kind

WHOLE = Span("hbm", 0, 0, 128, 0, 4)
MALFORMED = {
    "noise": (os.urandom(200), "no testbed host"),
    "version": (bytes([*HELLO[:4], 9, *HELLO[5:]]), "version 9"),
    "run": (frame(Kind.HELLO, run_id=78), "run 78 reached a host of run 77"),
    "epoch": (HELLO + frame(Kind.MESSAGE, sequence=2, epoch=2), "epoch 2 reached epoch 3"),
    "kind": (frame(Kind.HELLO, kind=9), "unknown kind 9"),
    "class": (frame(Kind.HELLO, traffic_class=2), "class ctrl came over"),
    "stranger": (frame(Kind.HELLO, frames.encode(frames.Hello("z"))), "'z' is not in the dir"),
    "no hello": (frame(Kind.MESSAGE), "before HELLO"),
    "long note": (HELLO + frame(Kind.MESSAGE, sequence=2, note_bytes=1 << 31), "the limit is"),
    "payload": (HELLO + frame(Kind.MESSAGE, sequence=2, payload_bytes=7), "only writes may"),
    "gap": (HELLO + frame(Kind.MESSAGE, sequence=4), "frame 4 followed frame 1"),
    "ack": (HELLO + frame(Kind.ACK, sequence=2), "wrong end"),
    "note": (HELLO + frame(Kind.MESSAGE, b"\xc1\xff", sequence=2), "malformed"),
    "region": (
        HELLO + frame(Kind.WRITE, bell(Span("x", 0, 0, 64, 0, 4)), sequence=2, payload_bytes=1280),
        "no region 'x'",
    ),
    "size": (HELLO + frame(Kind.WRITE, bell(WHOLE), sequence=2, payload_bytes=1 << 31), "2560"),
    "outside": (
        HELLO + frame(Kind.WRITE, bell(WHOLE.tokens(960, 1088)), sequence=2, payload_bytes=2560),
        "outside region",
    ),
    "layers": (
        HELLO + frame(Kind.WRITE, bell(Span("hbm", 0, 0, 64, 3, 5)), sequence=2, payload_bytes=640),
        "no span of 4 layers",
    ),
    "truncated header": (HELLO + HELLO[:20], "middle of a frame"),
    "truncated payload": (
        HELLO + frame(Kind.WRITE, bell(WHOLE), sequence=2, payload_bytes=2560) + bytes(2000),
        "middle of a frame",
    ),
    "died": (HELLO, "without a goodbye"),
}


ENDED = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_input_ends_its_connection_and_surfaces(case: str) -> None:
    data, words = MALFORMED[case]
    pool = filled("hbm", ONE_ROW, 16, 1)
    before = pool.array.copy()

    async def main() -> None:
        a, b = pair()
        async with a, b:
            a.register(pool)
            stream = await dial(a, data)
            if case.startswith("truncated") or case == "died":
                await stream.aclose()
            with pytest.raises(TransferError, match=words):
                await a.receive()
            with pytest.raises(ENDED):
                await stream.receive()
            await stream.aclose()
            b.post("a", Start(1))  # the host itself goes on
            assert (await a.receive()).message == Start(1)

    run(main)
    if case != "truncated payload":
        assert np.array_equal(pool.array, before)
