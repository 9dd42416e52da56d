"""Everything that a run left, as hosts and kernel wrote it down."""

from functools import cached_property
from pathlib import Path

import msgspec

from engines.agents import TurnRecord
from engines.config import ServiceConfig, StorageConfig
from scheduler.types import Decision
from testbed.errors import RunFailed
from testbed.results.dram import Cached, cached
from testbed.worlds import account
from testbed.worlds.account import HostAccount, TurnTruth
from testbed.worlds.others import Program
from testbed.worlds.plan import LabPlan
from testbed.worlds.samples import Samples

OTHERS = "others.msgpack"  # in a run's folder: what else ran on the machine


class RunData(msgspec.Struct, dict=True):
    """Everything that a run left.

    In the virtual world `wall_s` is what `virtual_s` target seconds took; elsewhere both are 0.
    `others` are the programs that used most of the machine beside it.
    """

    plan: LabPlan
    accounts: dict[str, HostAccount]
    samples: Samples
    truths: list[TurnTruth]
    wall_s: float = 0.0
    virtual_s: float = 0.0
    others: list[Program] = []

    @property
    def turns(self) -> list[TurnRecord]:
        """Every turn as its client saw it."""
        return self.accounts["agents"].turns

    @property
    def has_classes(self) -> bool:
        """Whether links told classes apart, all the time."""
        changed = any(change.kind == "qos" for change in self.samples.changes)
        return self.plan.wires.qos and not changed

    @cached_property
    def decisions(self) -> dict[int, Decision]:
        """The scheduler's decisions by request."""
        decided = self.accounts["sched"].decided
        return {entry.decision.request_id: entry.decision for entry in decided}

    @cached_property
    def cached(self) -> Cached:
        """What came out of DRAM caches, by request and side."""
        return cached(self.plan, self.accounts)

    @property
    def engine_hosts(self) -> dict[str, str]:
        """The host behind each engine name."""
        for host in self.plan.hosts:
            if isinstance(host.role, ServiceConfig):
                return host.role.engine_hosts
        raise RunFailed("the plan of this run names no scheduler host; run it again")

    @property
    def storages(self) -> tuple[str, ...]:
        """The storage hosts' names."""
        return tuple(h.name for h in self.plan.hosts if isinstance(h.role, StorageConfig))


def load(folder: Path) -> RunData:
    """Read a run's folder."""
    others = folder / OTHERS
    return RunData(
        msgspec.msgpack.decode((folder / "plan.msgpack").read_bytes(), type=LabPlan),
        account.read_all(folder / "accounts"),
        msgspec.msgpack.decode((folder / "samples.msgpack").read_bytes(), type=Samples),
        account.read_truths(folder / "truth"),
        others=(
            msgspec.msgpack.decode(others.read_bytes(), type=list[Program])
            if others.exists()
            else []
        ),
    )
