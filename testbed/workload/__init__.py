"""Workloads: which agents there are, and what each of their turns appends and generates."""

from testbed.workload.build import build_workload
from testbed.workload.plan import (
    Averages,
    Load,
    Opening,
    Workload,
    averages,
    loads,
    offered_turns_per_s,
)

__all__ = [
    "Averages",
    "Load",
    "Opening",
    "Workload",
    "averages",
    "build_workload",
    "loads",
    "offered_turns_per_s",
]
