"""Real KV in the virtual world: a decoder in which every byte counts, memory, keys and blocks."""

from collections.abc import Iterator

import anyio
import numpy as np
import pytest
from fakes import FakeClock, play, running_loop

from engines.errors import ComputeError, KvDigestMismatch, KvMissing, TransferError
from engines.kv import Extent, Span
from engines.layout import KvLayout
from engines.messages import Message, Start
from engines.modelled.checked import CheckedCompute, CheckedStore, CheckedTransport, CheckedWires
from engines.modelled.content import PatternAuthor
from engines.modelled.decoder import Openings, embed, embed_rows, run, run_layer, token
from engines.modelled.fluid import FluidNetwork
from engines.modelled.regions import Kv, Regions, block_keys, digest_blocks, new_kv
from engines.seams.compute import Compute, DecodeJob, PrefillJob
from engines.seams.store import Store
from engines.seams.transport import Transport, Write

LAYOUT = KvLayout(token_scale=16, block_tokens=64, layers=3, width=2)  # four rows a block
CONTENT = bytes(range(48))  # 24 rows, six blocks


def kv_of(content: bytes) -> tuple[Kv, bytes]:
    """A content's KV, and the token after it."""
    rows = len(content) // 2
    kv = new_kv(rows, LAYOUT.layers)
    return kv, token(run(kv, 0, embed_rows(content, 0, rows))[-1])


def regions(host: str = "a") -> Regions:
    return Regions(host, LAYOUT, {"hbm": 1024, "dram": 1024})


def span(region: str, slot: int, first: int, last: int) -> Span:
    return Span(region, slot, first, last, 0, LAYOUT.layers)


@pytest.mark.parametrize("cut", [1, 7, 23])
def test_kv_and_tokens_are_the_same_however_the_rows_are_cut(cut: int) -> None:
    kv, after = kv_of(CONTENT)
    found = new_kv(24, LAYOUT.layers)
    run(found, 0, embed_rows(CONTENT, 0, cut))
    assert token(run(found, cut, embed_rows(CONTENT, cut, 24))[-1]) == after
    assert np.array_equal(found, kv)


def test_a_beginning_has_the_same_kv_and_another_one_has_none_in_common() -> None:
    kv, _ = kv_of(CONTENT)
    assert np.array_equal(kv_of(CONTENT[:20])[0], kv[:10])
    other, _ = kv_of(b"zz" + CONTENT[2:])
    assert not np.any(other[:, 1:] == kv[:, 1:])


@pytest.mark.parametrize("row", [0, 11, 22])
@pytest.mark.parametrize("layer", range(LAYOUT.layers))
def test_one_bit_of_any_rows_kv_changes_the_next_token(row: int, layer: int) -> None:
    kv, after = kv_of(CONTENT)
    kv[row, layer] ^= 1
    assert token(run(kv, 23, [embed(CONTENT[46:], 23)])[-1]) != after


def test_a_layer_that_comes_too_late_is_one_that_is_missing() -> None:
    kv, _ = kv_of(CONTENT)
    states = run_layer(kv, 20, embed_rows(CONTENT, 20, 24), 0)
    right = run_layer(kv.copy(), 20, states, 1)
    kv[:20, 1] = 0
    assert run_layer(kv, 20, states, 1) != right


def test_openings_are_beginnings_of_each_other() -> None:
    author = PatternAuthor(1, LAYOUT.token_scale)
    openings = Openings(author, LAYOUT)
    short = openings.kv(3, 128).copy()
    longer = openings.kv(3, 512)
    assert (len(short), len(longer)) == (8, 32)
    assert np.array_equal(longer[:8], short) and np.array_equal(openings.kv(3, 128), short)
    assert np.array_equal(kv_of(author.opening(3, 512))[0], longer)


def test_a_span_is_its_rows_in_place() -> None:
    memory = regions()
    memory.view(span("hbm", 64, 32, 64))[:] = 7
    whole = memory.view(span("hbm", 0, 0, 1024))
    assert np.flatnonzero(whole[:, 0]).tolist() == [6, 7]
    memory.view(span("hbm", 64, 32, 64).layer(1))[:] = 8
    assert whole[6].tolist() == [7, 8, 7]


@pytest.mark.parametrize("outside", [
    span("hbm", 1024, 0, 16), span("hbm", 960, 0, 80), span("tape", 0, 0, 16),
    span("hbm", 0, 32, 16),
])  # fmt: skip
def test_spans_outside_are_refused(outside: Span) -> None:
    with pytest.raises(TransferError, match="outside the regions of a"):
        regions().view(outside)


def test_a_key_binds_all_tokens_up_to_its_blocks_end() -> None:
    keys = block_keys(CONTENT, 0, 6, LAYOUT)
    assert len(set(keys)) == 6
    assert block_keys(CONTENT, 2, 3, LAYOUT) == keys[2:5]
    assert block_keys(CONTENT[:39] + b"!" + CONTENT[40:], 0, 6, LAYOUT)[:4] == keys[:4]
    assert not set(block_keys(b"!" + CONTENT[1:], 0, 6, LAYOUT)) & set(keys)
    with pytest.raises(TransferError, match="have no keys"):
        block_keys(CONTENT, 5, 2, LAYOUT)


def transports(verify: bool = True) -> dict[str, CheckedTransport]:
    network = FluidNetwork(running_loop(), {"link": 1e6}, True)
    memories = {host: regions(host) for host in "ab"}
    wires = CheckedWires(network, lambda *_: ("link",), LAYOUT, 1e-3, memories)
    return {host: CheckedTransport(host, wires, verify) for host in "ab"}


def test_bytes_are_there_when_the_doorbell_rings_and_not_before() -> None:
    async def main() -> None:
        hosts = transports()
        memory = hosts["a"]._wires.regions  # type: ignore[attr-defined]
        source, target = span("dram", 64, 0, 384), span("hbm", 128, 0, 384)
        memory["a"].view(source)[:] = kv_of(CONTENT)[0]
        write = Write(source.layer(1), target.layer(1), Start(1), 1)
        found = memory["b"].view(target)
        rung: list[tuple[Message, Kv]] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hosts["b"].serve, lambda d: rung.append((d.message, found.copy())))
            tasks.start_soon(lambda: hosts["a"].write("b", [write], deadline_s=1))
            await anyio.sleep(1e-4)  # 192 bytes take twice as long
            assert not found.any() and not rung
            await anyio.sleep(1e-3)
            tasks.cancel_scope.cancel()
        ((message, found),) = rung
        assert message == Start(1)
        assert np.array_equal(found[:, 1], kv_of(CONTENT)[0][:, 1])
        assert not found[:, 0].any() and not found[:, 2].any()

    play(main)


def test_a_check_names_the_block_that_is_not_what_it_should_be() -> None:
    transport = transports()["a"]
    lies = span("dram", 0, 0, 256)
    kv = transport._regions.view(lies)
    kv[:] = kv_of(CONTENT)[0][8:]
    digests = transport.seal(lies, CONTENT, 2)
    assert len(digests) == 4 * 8
    transport.check(lies, CONTENT, 2, digests)
    with pytest.raises(KvDigestMismatch, match="block 1 of the prompt"):
        transport.check(lies, CONTENT, 1, digests)  # the right bytes in the wrong place
    with pytest.raises(KvDigestMismatch, match="24 bytes of digests"):
        transport.check(lies, CONTENT, 2, digests[8:])
    kv[9, 2] ^= 1
    with pytest.raises(KvDigestMismatch, match="block 4 of the prompt, in region 'dram' of a"):
        transport.check(lies, CONTENT, 2, digests)
    transports(verify=False)["a"].check(lies, CONTENT, 2, digests)


def test_the_store_gives_back_blocks_and_digests_and_copies_what_it_keeps() -> None:
    async def main() -> None:
        memory = regions()
        store = CheckedStore(LAYOUT, memory)
        kv = kv_of(CONTENT)[0]
        digests = digest_blocks(kv, block_keys(CONTENT, 0, 6, LAYOUT))
        store.hold(Extent(1, 0, 2), kv[:8], digests[:16])
        source = span("hbm", 0, 0, 256)
        memory.view(source)[:] = kv[8:]
        await store.append(Extent(5, 2, 4), source, digests[16:])
        memory.view(source)[:] = 0
        into = span("dram", 64, 0, 384)
        assert await store.read([Extent(1, 0, 2), Extent(5, 2, 4)], into) == digests
        assert np.array_equal(memory.view(into), kv)
        with pytest.raises(KvMissing, match="block 2 of chain 1"):
            await store.read([Extent(1, 1, 2)], into)

    play(main)


@pytest.fixture
def compute() -> Iterator[tuple[CheckedCompute, Regions]]:
    memory = regions()
    yield CheckedCompute(LAYOUT, memory, FakeClock()), memory


def test_prefill_in_chunks_and_decode_give_the_tokens_of_the_whole(
    compute: tuple[CheckedCompute, Regions],
) -> None:
    machine, memory = compute
    slot = span("hbm", 64, 0, 400)
    content = CONTENT

    async def main() -> None:
        found: dict[int, bytes] = {}
        for first, last in ((0, 200), (200, 392)):  # 8 tokens are no emulated one
            for layer in range(LAYOUT.layers):
                job = PrefillJob(1, slot, content, first, last, last == 392)
                found = await machine.prefill([job], layer, 0.0)
                assert bool(found) == (layer == 2 and last == 392)
        kv, after = kv_of(content)
        assert found == {1: after}
        assert np.array_equal(memory.view(slot)[:24], kv)
        (following,) = await machine.decode([DecodeJob(1, slot, after, 384)], 0.0)
        longer, expected = kv_of(content + after)
        assert following == expected
        assert np.array_equal(memory.view(slot), longer)
        assert machine.fingerprint(slot) != machine.fingerprint(slot.tokens(0, 384))

    play(main)


def test_a_prompt_of_hits_alone_still_gives_its_token(
    compute: tuple[CheckedCompute, Regions],
) -> None:
    machine, memory = compute
    slot = span("hbm", 0, 0, 384)
    kv, after = kv_of(CONTENT)
    memory.view(slot)[:] = kv

    async def main() -> None:
        job = PrefillJob(1, slot, CONTENT, 384, 384, True)
        for layer in range(LAYOUT.layers):
            found = await machine.prefill([job], layer, 0.0)
        assert found == {1: after} and np.array_equal(memory.view(slot), kv)
        empty = PrefillJob(2, slot, b"", 0, 5, True)
        with pytest.raises(ComputeError, match="no emulated one"):
            await machine.prefill([empty], 0, 0.0)

    play(main)


def test_the_sides_are_what_the_seams_ask_for(compute: tuple[CheckedCompute, Regions]) -> None:
    a_compute: Compute = compute[0]
    a_store: Store = CheckedStore(LAYOUT, compute[1])
    a_transport: Transport = transports()["a"]
    assert a_compute and a_store and a_transport.host == "a"
