"""From a workload's section in an experiment file to the workload itself."""

from testbed.spec_workload import FixedWorkload, WekaWorkload, WorkloadSpec
from testbed.workload.arrivals import arrive
from testbed.workload.fixed import build_fixed
from testbed.workload.plan import Workload
from testbed.workload.replay import build_replay
from testbed.workload.weka import build_weka


def build_workload(spec: WorkloadSpec, seed: int) -> Workload:
    """The same spec and seed always give the same workload; raises InputError."""
    return arrive(_build(spec, seed), spec.aps, spec.window_s, seed)


def _build(spec: WorkloadSpec, seed: int) -> Workload:
    if isinstance(spec, FixedWorkload):
        return build_fixed(spec, seed)
    if isinstance(spec, WekaWorkload):
        return build_weka(spec, seed)
    return build_replay(spec, seed)
