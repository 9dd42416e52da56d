"""The main program of every host process: real sides into the seams, one role, one account."""

import gc
import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import anyio
import msgspec

from engines.agents import OPENING_CHAINS
from engines.config import DecodeConfig, PrefillConfig, StorageConfig
from engines.kv import storage_of
from engines.real.clock import RealClock
from engines.real.compute import TorchCompute
from engines.real.decoder import Decoder, checked_decoder
from engines.real.digests import digest_blocks
from engines.real.disk import DiskStore
from engines.real.openings import ensure_openings, load_opening
from engines.real.pool import KvPool
from engines.real.routes import TcpConfig
from engines.real.tcp import TcpTransport
from engines.real.tokens import Author, PrefixKeys
from engines.seams.clock import Clock
from testbed.fabric.counters import retransmitted_bytes
from testbed.worlds.account import HostAccount, write
from testbed.worlds.plan import WAITED, HostStart, TruthStart
from testbed.worlds.roles import Sides, Waits, play_role
from testbed.worlds.truth import check

READY, GO_BYTES = b"R", 8
# On few cores a GPU's layer would wait for a CPU behind work that has no due time of its own.
BESIDE_NICE = 5
CLOSE_DEADLINE_S = 5.0
MOST_NAMED = 5  # of what a host lacks when it fails


def main(start_file: Path, control: socket.socket) -> None:
    """Build the host's memory and models, say ready, wait for the start, play the role."""
    start = msgspec.msgpack.decode(start_file.read_bytes(), type=HostStart | TruthStart)
    with suppress(OSError):  # named as its host, for the lab and for `top`, where there is /proc
        Path("/proc/self/comm").write_text(start_file.stem)
    if isinstance(start, TruthStart):
        return check(start)
    # Messages and tasks come and go by the thousand and hold no cycles: collect rarely.
    gc.set_threshold(100_000, 20, 100)
    if not isinstance(start.host.role, PrefillConfig):
        os.nice(BESIDE_NICE)
    host = _Host(start, control)
    control.sendall(READY)
    go = control.recv(GO_BYTES, socket.MSG_WAITALL)
    if len(go) < GO_BYTES:
        return  # the lab gave up before the start
    start_s = int.from_bytes(go, "big") / 1e9
    anyio.run(
        host.play, start.directory, start.delays_s, start_s,
        backend="asyncio", backend_options={"use_uvloop": True},
    )  # fmt: skip


class _Host:
    """What one process holds before the run's clock starts."""

    def __init__(self, start: HostStart, control: socket.socket) -> None:
        self._plan = plan = start.host
        self._world = world = start.world
        self._own_network = start.own_network
        self._control = control
        self._pools = {
            name: KvPool(name, world.layout, tokens) for name, tokens in plan.pools.items()
        }
        self._waits: Waits = lambda: ()
        self._decoder: Decoder | None = None
        self._store: DiskStore | None = None
        if isinstance(plan.role, PrefillConfig | DecodeConfig):
            self._decoder = checked_decoder(world.shape, world.padded_rows, world.layout)
        if isinstance(plan.role, StorageConfig):
            self._store = self._filled_store()

    def _filled_store(self) -> DiskStore:
        """The host's block store, holding the openings that were computed before the run."""
        world = self._world
        folder = Path(world.folder) / "store" / self._plan.name
        store = DiskStore(folder, world.layout, list(self._pools.values()))
        author = Author(world.author_seed, world.shape.vocabulary, world.layout)
        own = [
            opening
            for opening in world.openings
            if storage_of(OPENING_CHAINS + opening.id, world.storages) == self._plan.name
        ]
        wanted = [(opening.id, opening.tokens) for opening in own]
        decoder = checked_decoder(world.shape, world.padded_rows, world.layout)
        paths = ensure_openings(Path(world.cache), decoder, world.layout, author, wanted)
        keys = PrefixKeys(world.layout, world.fingerprint)
        for opening, path in zip(own, paths, strict=True):
            array = load_opening(path)
            content = author.opening(opening.id, opening.tokens)
            data = array.reshape(-1).data.cast("B")
            block_keys = keys.keys(content, 0, len(array))
            digests = digest_blocks(data, world.layout.block_bytes, block_keys)
            store.load(OPENING_CHAINS + opening.id, array, digests)
        return store

    async def play(
        self, directory: dict[str, dict[str, str]], delays_s: dict[str, float], start_s: float
    ) -> None:
        """Run the role to its end and write the account."""
        world, role = self._world, self._plan.role
        clock = RealClock(start_s, world.time_scale)
        config = TcpConfig(
            host=role.host,
            run_id=world.run_id,
            epoch=1,
            directory=directory,
            deadline_s=30.0,
            # Two ways there and back: a goodbye, and the end of the stream behind it.
            close_deadline_s=CLOSE_DEADLINE_S + 4 * max(delays_s.values(), default=0.0),
            verify=world.verify_digests,
            delays_s=delays_s,
            time_scale=world.time_scale,
        )
        account = HostAccount(role.host, type(role).__name__, 0.0, 0.0, 0)
        cpu_s, delay_s = _spent_s()
        again_bytes = self._again_bytes()  # what measuring the links took is not the run's
        keys = PrefixKeys(world.layout, world.fingerprint)
        async with TcpTransport(config, clock, keys) as transport:
            for pool in self._pools.values():
                transport.register(pool)
            sides = self._sides(clock, transport)
            try:
                await play_role(role, sides, account)
            except BaseException:
                if whats := list(islice(self._waits(), MOST_NAMED)):
                    print(f"{WAITED}{'; '.join(whats)}", file=sys.stderr)
                raise
            transport.quiesce()
            if isinstance(sides.compute, TorchCompute):
                account.compute = msgspec.to_builtins(sides.compute.stats)
                account.late = sides.compute.late
            account.transport, account.tallies = dict(transport.account()), transport.tallies()
        cpu_end_s, delay_end_s = _spent_s()
        account.run_cpu_s, account.run_delay_s = cpu_end_s - cpu_s, delay_end_s - delay_s
        account.memory_bytes = _memory_bytes()
        account.retransmitted_bytes = self._again_bytes() - again_bytes
        write(Path(world.folder) / "accounts", account)

    def _again_bytes(self) -> int:
        if not self._own_network:
            return 0  # the kernel's count is everybody's
        return retransmitted_bytes(Path("/proc/self/net/snmp").read_text())

    def _sides(self, clock: Clock, transport: TcpTransport) -> Sides:
        world = self._world
        return Sides(
            clock,
            transport,
            Author(world.author_seed, world.shape.vocabulary, world.layout),
            self._progress(),
            world,
            self._store,
            self._compute(clock),
            self._meet,
        )

    def _meet(self, waits: Waits) -> None:
        self._waits = waits

    def _compute(self, clock: Clock) -> TorchCompute | None:
        if self._decoder is None:
            return None
        return TorchCompute(self._decoder, self._pools["hbm"], clock)

    def _progress(self) -> Callable[[int, int], None]:
        def tell(ended: int, total: int) -> None:
            self._control.sendall(json.dumps([ended, total]).encode() + b"\n")

        return tell


def _spent_s() -> tuple[float, float]:
    """CPU seconds so far, and seconds in which the process was runnable but had no CPU."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    try:
        delay_s = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        delay_s = 0.0  # this kernel keeps no schedstat: the other signs must do
    return usage.ru_utime + usage.ru_stime, delay_s


def _memory_bytes() -> int:
    """The process's part of memory, pages that it shares divided by their users (PSS).

    Pools are populated at the start, so the end's figure is as good as the peak's.
    """
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        # It counts shared pages whole. Other systems than Linux count bytes.
        unit = 1024 if sys.platform == "linux" else 1
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
