"""What each host writes down at its end, one file a host in the run's folder."""

from pathlib import Path
from typing import Any

import msgspec

from engines.agents import TurnRecord
from engines.prefill_turn import Forward
from engines.service import Decided, Restart
from engines.tally import PeerTally


class HostAccount(msgspec.Struct):
    """Counts of one host; `run_cpu_s` is CPU time since the run's start, `run_delay_s` time
    since then in which it was runnable and had no CPU (schedstat), both real.
    `retransmitted_bytes` is what its kernel sent once more, at most; `cached_tokens` are those of
    each request that came from a buffer's DRAM cache; `tallies` what the transport moved. `late`
    has each computation that ended late: when it was due, and by how much, in target seconds;
    `exchanges` is what collectives of a group of several hosts came to (`Collective.account`)."""

    host: str
    role: str
    run_cpu_s: float
    run_delay_s: float
    memory_bytes: int
    retransmitted_bytes: int = 0
    counts: dict[str, Any] = {}
    transport: dict[str, Any] = {}
    compute: dict[str, float] = {}
    late: list[tuple[float, float]] = []
    forwards: list[Forward] = []
    decided: list[Decided] = []
    restarts: list[Restart] = []
    turns: list[TurnRecord] = []
    tallies: list[PeerTally] = []
    cached_tokens: dict[int, int] = {}
    exchanges: dict[str, Any] = {}


class TurnTruth(msgspec.Struct, frozen=True):
    """One completed turn: tokens compared, tokens equal, and the KV's verdict where sampled."""

    request: int
    tokens_checked: int
    tokens_equal: int
    kv_equal: bool | None


def read_truths(folder: Path) -> list[TurnTruth]:
    """The reference's verdicts on a run's turns, every share's."""
    decoder = msgspec.msgpack.Decoder(list[TurnTruth])
    return [
        truth for path in folder.glob("*.msgpack") for truth in decoder.decode(path.read_bytes())
    ]


def write(folder: Path, account: HostAccount) -> None:
    """Write a host's account, whole or not at all."""
    path = folder / f"{account.host}.msgpack"
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.msgpack.encode(account))
    part.rename(path)


def read_all(folder: Path) -> dict[str, HostAccount]:
    """Every account of a run, by host."""
    decoder = msgspec.msgpack.Decoder(HostAccount)
    return {path.stem: decoder.decode(path.read_bytes()) for path in folder.glob("*.msgpack")}
