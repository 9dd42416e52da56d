"""The block store on disk: what a restart finds, what it refuses, and what a check catches."""

import asyncio
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.errors import KvDigestMismatch, KvMissing, StoreError
from engines.kv import Extent, Span
from engines.layout import KvLayout
from engines.real.clock import RealClock
from engines.real.digests import digest_blocks
from engines.real.disk import DiskStore
from engines.real.pool import KvPool
from engines.real.tcp import TcpConfig, TcpTransport

LAYOUT = KvLayout(token_scale=16, block_tokens=64, layers=4, width=20)
BLOCK = LAYOUT.block_bytes
ROOT = Path(__file__).parents[2]


class Keys:
    """Block i of a prompt has key 50 + i."""

    def keys(self, content: bytes, first_block: int, count: int) -> Sequence[int]:
        return range(50 + first_block, 50 + first_block + count)


def chain_of(seed: int, blocks: int) -> tuple[NDArray[np.float32], bytes]:
    shape = (blocks, LAYOUT.layers, LAYOUT.rows_per_block, LAYOUT.width)
    array = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    data = memoryview(array.tobytes())
    return array, digest_blocks(data, BLOCK, range(50, 50 + blocks))


def span(first_block: int, blocks: int) -> Span:
    tokens = LAYOUT.block_tokens
    return Span("stage", first_block * tokens, 0, blocks * tokens, 0, LAYOUT.layers)


def stage() -> KvPool:
    return KvPool("stage", LAYOUT, 64 * LAYOUT.block_tokens)


def read(store: DiskStore, into: Span, *extents: Extent) -> bytes:
    return asyncio.run(store.read(extents, into))


def append(store: DiskStore, extent: Extent, source: Span, digests: bytes) -> None:
    asyncio.run(store.append(extent, source, digests))


def test_a_read_gathers_prefixes_and_small_appends_of_several_chains(tmp_path: Path) -> None:
    pool = stage()
    shared, shared_digests = chain_of(1, 30)
    own, own_digests = chain_of(2, 12)
    with DiskStore(tmp_path, LAYOUT, [pool], segment_bytes=BLOCK * 7 + 11) as store:
        store.load(1, shared, shared_digests)
        for first, count in ((30, 1), (31, 3), (34, 8)):  # as turns append to an agent's chain
            part = slice(first - 30, first - 30 + count)
            pool.array[:count] = own[part]
            digests = own_digests[part.start * 8 : part.stop * 8]
            append(store, Extent(2, first, count), span(0, count), digests)
            store.load(3, own[part], digests, first)  # another chain in between
        found = read(store, span(5, 35), Extent(1, 2, 25), Extent(2, 31, 10))
        assert found == shared_digests[16 : 27 * 8] + own_digests[8 : 11 * 8]
        assert np.array_equal(pool.array[5:30], shared[2:27])
        assert np.array_equal(pool.array[30:40], own[1:11])
        assert read(store, span(0, 0)) == b""
        assert store.held(Extent(2, 30, 100)) == 12 and store.held(Extent(2, 29, 5)) == 0


@pytest.mark.parametrize(
    ("extent", "words"),
    [
        (Extent(7, 0, 1), "block 0 of chain 7"),
        (Extent(5, 8, 4), "block 10 of chain 5"),
        (Extent(5, 10, 2), "block 10 of chain 5"),
        (Extent(5, 12, 9), "block 20 of chain 5"),
        (Extent(4, 0, 3), "block 0 of chain 4"),
    ],
)
def test_a_missing_block_is_named(tmp_path: Path, extent: Extent, words: str) -> None:
    pool = stage()
    array, digests = chain_of(1, 10)
    with DiskStore(tmp_path, LAYOUT, [pool]) as store:
        store.load(5, array, digests)
        store.load(5, array[:8], digests[:64], 12)
        store.load(6, array, digests)
        before = pool.array.copy()
        with pytest.raises(KvMissing, match=words):
            read(store, span(0, extent.count), extent)
        assert np.array_equal(pool.array, before)


def test_appending_again_is_idempotent_and_other_digests_are_refused(tmp_path: Path) -> None:
    array, digests = chain_of(1, 20)
    pool = stage()
    with DiskStore(tmp_path, LAYOUT, [pool]) as store:
        store.load(1, array[5:10], digests[40:80], 5)
        size = (tmp_path / "segment-000000").stat().st_size
        store.load(1, array[5:10], digests[40:80], 5)
        assert (tmp_path / "segment-000000").stat().st_size == size == 5 * BLOCK
        store.load(1, array, digests)  # fills in what lies before and behind
        assert (tmp_path / "segment-000000").stat().st_size == 20 * BLOCK
        assert read(store, span(0, 20), Extent(1, 0, 20)) == digests
        assert np.array_equal(pool.array[:20], array)
        wrong = digests[:56] + bytes(8) + digests[64:]
        with pytest.raises(StoreError, match="block 7 of chain 1"):
            store.load(1, array, wrong)
        with pytest.raises(StoreError, match="bytes of digests"):
            store.load(2, array, digests[:-8])
        assert read(store, span(0, 20), Extent(1, 0, 20)) == digests


KILLED_WRITER = """
import os, signal, sys
import numpy as np
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_disk_store import LAYOUT, chain_of
from engines.real.disk import DiskStore
store = DiskStore(Path(sys.argv[1]), LAYOUT)
for chain in range(5):
    store.load(chain, *chain_of(chain, 9))
store._segments.append(b"torn" * 999)  # data is out, the index is not: the process dies here
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_restart_after_a_kill_finds_all_that_was_appended_and_forgets_torn_data(
    tmp_path: Path,
) -> None:
    command = [
        sys.executable,
        "-c",
        KILLED_WRITER,
        str(tmp_path),
        str(ROOT),
        str(ROOT / "tests/unit"),
    ]
    assert subprocess.run(command, timeout=30).returncode == -9
    segment = tmp_path / "segment-000000"
    assert segment.stat().st_size == 45 * BLOCK + 3996
    pool = stage()
    with DiskStore(tmp_path, LAYOUT, [pool]) as store:
        assert segment.stat().st_size == 45 * BLOCK
        store.load(5, *chain_of(5, 9))
        for chain in range(6):
            array, digests = chain_of(chain, 9)
            assert read(store, span(0, 9), Extent(chain, 0, 9)) == digests
            assert np.array_equal(pool.array[:9], array)


def test_data_that_the_index_names_but_the_disk_lost_is_refused(tmp_path: Path) -> None:
    array, digests = chain_of(1, 9)
    with DiskStore(tmp_path, LAYOUT, [stage()]) as store:
        store.load(1, array, digests)
        with open(tmp_path / "segment-000000", "r+b") as file:
            file.truncate(4 * BLOCK)
        with pytest.raises(StoreError, match="ends before offset"):
            read(store, span(0, 9), Extent(1, 0, 9))
    with pytest.raises(StoreError, match="its index names"):
        DiskStore(tmp_path, LAYOUT)


def checker(pool: KvPool) -> TcpTransport:
    config = TcpConfig("s", 1, 1, {"s": {"mgmt": "127.0.0.1"}})
    transport = TcpTransport(config, RealClock(time.monotonic(), 1.0), Keys())
    transport.register(pool)
    return transport


def test_a_flipped_byte_and_a_swapped_block_on_disk_are_caught_by_the_check(tmp_path: Path) -> None:
    array, digests = chain_of(1, 20)
    pool = stage()
    transport = checker(pool)
    path = tmp_path / "segment-000000"

    with DiskStore(tmp_path, LAYOUT, [pool]) as store:
        store.load(1, array, digests)
        transport.check(span(0, 20), b"", 0, read(store, span(0, 20), Extent(1, 0, 20)))
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[13 * BLOCK + 77] ^= 4
        path.write_bytes(flipped)
        found = read(store, span(0, 20), Extent(1, 0, 20))
        with pytest.raises(KvDigestMismatch, match="block 13 of"):
            transport.check(span(0, 20), b"", 0, found)
        blocks = [whole[at : at + BLOCK] for at in range(0, len(whole), BLOCK)]
        blocks[3], blocks[17] = blocks[17], blocks[3]
        path.write_bytes(b"".join(blocks))
        found = read(store, span(0, 20), Extent(1, 0, 20))
        with pytest.raises(KvDigestMismatch, match="block 3 of"):
            transport.check(span(0, 20), b"", 0, found)


def test_an_index_that_is_full_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    array, digests = chain_of(1, 40)
    pool = stage()
    with DiskStore(tmp_path, LAYOUT, [pool], index_limit_bytes=64 << 10) as store:
        kept = 0
        with pytest.raises(StoreError, match="larger index limit"):
            for chain in range(1000):
                store.load(chain, array, digests)
                kept += 1
        assert kept > 10
        size = kept * 40 * BLOCK
        for chain in (0, kept - 1):
            assert read(store, span(0, 40), Extent(chain, 0, 40)) == digests
        with pytest.raises(KvMissing):
            read(store, span(0, 40), Extent(kept, 0, 40))
    with DiskStore(tmp_path, LAYOUT, [pool]) as store:  # a larger index takes it
        assert sum(f.stat().st_size for f in tmp_path.glob("segment-*")) == size
        store.load(kept, array, digests)


def test_a_folder_belongs_to_one_process_and_one_layout(tmp_path: Path) -> None:
    with DiskStore(tmp_path, LAYOUT), pytest.raises(StoreError, match="another process"):
        DiskStore(tmp_path, LAYOUT)
    other = KvLayout(token_scale=64, block_tokens=64, layers=4, width=20)
    with pytest.raises(StoreError, match="layout"):
        DiskStore(tmp_path, other)
    with DiskStore(tmp_path, LAYOUT, durable=True) as store:
        store.load(1, *chain_of(1, 2))
        assert store.held(Extent(1, 0, 3)) == 2


def test_spans_that_are_not_the_extents_blocks_are_refused(tmp_path: Path) -> None:
    array, digests = chain_of(1, 4)
    with DiskStore(tmp_path, LAYOUT, [stage()]) as store:
        store.load(1, array, digests)
        for bad in (span(0, 3), span(0, 4).layer(1), span(0, 5).tokens(16, 272)):
            with pytest.raises(StoreError, match="is not 4 whole blocks"):
                read(store, bad, Extent(1, 0, 4))
        with pytest.raises(StoreError, match="no region"):
            read(store, Span("x", 0, 0, 64, 0, 4), Extent(1, 0, 1))
        with pytest.raises(StoreError, match="is not float32 blocks"):
            store.load(2, array[:, :2], digests)


def test_chains_at_the_ends_of_their_range_are_kept_apart(tmp_path: Path) -> None:
    pool = stage()
    hashed = int.from_bytes(hashlib.sha256(b"c").digest()[:8], "big")
    chains = (0, 1, 255, 256, hashed, (1 << 64) - 1)
    with DiskStore(tmp_path, LAYOUT, [pool]) as store:
        for chain in chains:
            store.load(chain, *chain_of(chain, 3), first=2)
        for chain in chains:
            array, digests = chain_of(chain, 3)
            assert read(store, span(0, 2), Extent(chain, 3, 2)) == digests[8:]
            assert np.array_equal(pool.array[:2], array[1:])
