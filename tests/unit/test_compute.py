"""TorchCompute behind the compute seam: rows, batches, pacing, and what it refuses."""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import anyio
import numpy as np
import pytest

from engines.errors import ComputeError
from engines.kv import Span
from engines.layout import KvLayout
from engines.real.compute import TorchCompute
from engines.real.decoder import Decoder, DecoderShape, Rows, Windows
from engines.real.pool import KvPool
from engines.real.tokens import Author, decode, encode
from engines.seams.compute import Compute, DecodeJob, PrefillJob
from engines.tasks import Future

PADDED = 128
SCALE = 64
DECODER = Decoder(DecoderShape(), PADDED)
LAYERS = DECODER.shape.layers
LAYOUT = DECODER.layout(SCALE, 64)
AUTHOR = Author(0, DECODER.shape.vocabulary, LAYOUT)


class SteppedClock:
    """Stands still unless asked to sleep; remembers what it was asked."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.time_s = now_s
        self.slept_until: list[float] = []

    def now_s(self) -> float:
        return self.time_s

    async def sleep_until_s(self, when_s: float) -> None:
        self.slept_until.append(when_s)
        self.time_s = max(self.time_s, when_s)

    async def beat_until_s(self, when_s: float) -> None:
        await self.sleep_until_s(when_s)

    async def wait_for(self, woken: Future[None], seconds: float, what: str) -> None:
        await woken

    def deadline(self, seconds: float, what: str) -> AbstractContextManager[None]:
        return nullcontext()


def a_compute(slots: int = 3, layout: KvLayout = LAYOUT) -> tuple[TorchCompute, KvPool]:
    pool = KvPool("hbm", layout, slots * PADDED * layout.token_scale)
    return TorchCompute(DECODER, pool, SteppedClock()), pool


def slot(number: int, layout: KvLayout = LAYOUT) -> Span:
    return Span("hbm", number * PADDED * layout.token_scale, 0, 0, 0, LAYERS)


def prefill(compute: TorchCompute, *jobs: PrefillJob) -> dict[int, bytes]:
    async def layers() -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for layer in range(LAYERS):
            found = await compute.prefill(jobs, layer, 0.0)
            assert layer == LAYERS - 1 or not found
        return found

    return anyio.run(layers)


def decoded(compute: TorchCompute, jobs: Sequence[DecodeJob]) -> list[bytes]:
    return anyio.run(compute.decode, jobs, 0.0)


def truth(content: bytes) -> tuple[list[int], bytes]:
    """Next ids after every row, and the KV, of a content computed at once and alone."""
    pool = KvPool("truth", LAYOUT, PADDED * SCALE)
    ids = decode(content)
    found = DECODER.run(Windows(pool, PADDED), Rows(0, 0, len(ids)), ids)
    return found, pool.array[: len(ids)].tobytes()


def test_it_is_a_compute() -> None:
    compute: Compute = a_compute()[0]
    assert compute.fingerprint(slot(0)) == compute.fingerprint(slot(1))


@pytest.mark.parametrize(
    "cuts", [(0, 1900), (0, 700, 1900), (0, 10, 640, 1890, 1900), (0, 1856, 1900)]
)
def test_chunks_at_any_real_token_give_one_prompts_result(cuts: tuple[int, ...]) -> None:
    compute, pool = a_compute()
    content = AUTHOR.extend(b"", 1900, 1, 0)
    ids, kv = truth(content)
    found: dict[int, bytes] = {}
    for first, last in itertools.pairwise(cuts):
        job = PrefillJob(9, slot(1), content, first, last, last == cuts[-1])
        found = prefill(compute, job)
        assert (9 in found) == job.final
    assert found == {9: encode(ids[-1:])}
    assert pool.array[PADDED : PADDED + 29].tobytes() == kv


def test_a_prompt_that_is_all_hits_recomputes_its_last_row_in_place() -> None:
    compute, pool = a_compute()
    content = AUTHOR.extend(b"", 1300, 1, 0)
    prefill(compute, PrefillJob(1, slot(0), content, 0, 1300, True))
    before = pool.array.tobytes()
    found = prefill(compute, PrefillJob(2, slot(0), content, 1280, 1300, True))
    assert found == {2: encode(truth(content)[0][-1:])}
    assert pool.array.tobytes() == before


def test_a_batch_of_prompts_gives_each_its_own_result() -> None:
    compute, _ = a_compute()
    contents = [AUTHOR.extend(b"", tokens, tokens, 0) for tokens in (64, 500, 1500)]
    jobs = [
        PrefillJob(number, slot(number), content, 0, len(content) // 2 * 64, number != 1)
        for number, content in enumerate(contents)
    ]
    found = prefill(compute, *jobs)
    assert found == {number: encode(truth(contents[number])[0][-1:]) for number in (0, 2)}
    assert not compute._tiles


def test_prefill_then_decode_is_the_greedy_continuation() -> None:
    compute, pool = a_compute(slots=11)
    contents = [AUTHOR.extend(b"", 64 * (10 + number), number, 0) for number in range(11)]
    first = prefill(
        compute,
        *(
            PrefillJob(number, slot(number), content, 0, 64 * (10 + number), True)
            for number, content in enumerate(contents)
        ),
    )
    grown = [content + first[number] for number, content in enumerate(contents)]
    for _ in range(3):
        jobs = [
            DecodeJob(number, slot(number), content[-2:], (len(content) // 2 - 1) * 64 + 5)
            for number, content in enumerate(grown)
        ]
        grown = [content + new for content, new in zip(grown, decoded(compute, jobs), strict=True)]
    for number, content in enumerate(grown):
        ids, kv = truth(content[:-2])
        prompt_rows = 10 + number
        assert decode(content)[prompt_rows:] == ids[prompt_rows - 1 :]
        start = number * PADDED
        assert pool.array[start : start + prompt_rows + 3].tobytes() == kv


def test_fingerprint_is_of_the_spans_bytes() -> None:
    compute, pool = a_compute(layout=DECODER.layout(16, 64))
    pool.array[:] = np.random.default_rng(0).standard_normal(pool.array.shape)
    layout = pool.layout
    span = slot(1, layout).tokens(0, 200)  # 12 rows: three whole blocks of four
    before = compute.fingerprint(span)
    start = span.slot // 64
    pool.array[start + 3] += 1
    assert compute.fingerprint(span) == before
    pool.array[start : start + 2] = pool.array[start : start + 2][::-1].copy()
    assert compute.fingerprint(span) != before


def test_calls_that_are_late_are_counted_with_their_lateness() -> None:
    clock = SteppedClock(now_s=10.0)
    compute = TorchCompute(DECODER, KvPool("hbm", LAYOUT, PADDED * SCALE), clock)
    job = DecodeJob(1, slot(0), encode([3]), 0)
    anyio.run(compute.decode, [job], 12.0)
    anyio.run(compute.decode, [job], 11.5)
    anyio.run(compute.decode, [job], 11.0)
    anyio.run(compute.prefill, [], 0, 10.5)  # without work nothing can take too long
    assert clock.slept_until == [12.0, 11.5, 11.0, 10.5]
    assert (compute.stats.calls, compute.stats.overruns) == (3, 2)
    assert compute.stats.lateness_s == pytest.approx(0.5 + 1.0)
    assert compute.stats.cpu_s > 0


def test_other_tasks_run_between_tiles() -> None:
    compute, _ = a_compute()
    turns = 0

    async def both() -> None:
        async def network() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(network)
            content = AUTHOR.extend(b"", 64 * 80, 1, 0)
            await compute.prefill([PrefillJob(1, slot(0), content, 0, 64 * 80, True)], 0, 0.0)
            group.cancel_scope.cancel()

    anyio.run(both)
    assert turns >= 10  # 80 rows are ten tiles


def test_turns_that_failed_between_layers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.real.compute.MOST_IN_PREFILL", 5)
    compute, _ = a_compute()
    content = AUTHOR.extend(b"", 64, 1, 0)
    for request in range(9):
        anyio.run(compute.prefill, [PrefillJob(request, slot(0), content, 0, 64, True)], 0, 0.0)
    assert list(compute._tiles) == [4, 5, 6, 7, 8]


CONTENT = AUTHOR.extend(b"", 640, 1, 0)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (PrefillJob(1, slot(0), CONTENT, 0, 63, True), "at least 64 tokens"),
        (PrefillJob(1, slot(0), CONTENT, 0, 704, True), "rows 0 to 11 of 10 token ids"),
        (PrefillJob(1, slot(7), CONTENT, 0, 640, True), "outside pool"),
        (PrefillJob(1, Span("dram", 0, 0, 0, 0, 4), CONTENT, 0, 640, True), "no slot of pool"),
        (PrefillJob(1, slot(0), encode([600] * 10), 0, 640, True), "vocabulary"),
    ],
)
def test_impossible_prefills_are_refused(job: PrefillJob, message: str) -> None:
    with pytest.raises(ComputeError, match=message):
        prefill(a_compute()[0], job)


def test_impossible_decodes_and_pools_are_refused() -> None:
    compute, _ = a_compute()
    with pytest.raises(ComputeError, match="one token of 2 bytes, not 4"):
        decoded(compute, [DecodeJob(1, slot(0), encode([1, 2]), 0)])
    with pytest.raises(ComputeError, match="raise padded_rows"):
        decoded(compute, [DecodeJob(1, slot(0), encode([1]), PADDED * SCALE)])
    with pytest.raises(ComputeError, match="before layer 0"):
        anyio.run(compute.prefill, [PrefillJob(1, slot(0), CONTENT, 0, 640, True)], 1, 0.0)
    with pytest.raises(ComputeError, match=r"use decoder\.layout"):
        TorchCompute(DECODER, KvPool("hbm", KvLayout(64, 64, 2, 80), 640), SteppedClock())
