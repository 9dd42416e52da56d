"""From a workload's section in an experiment file to the workload itself."""

from testbed.spec_workload import FixedWorkload, WorkloadSpec
from testbed.workload.fixed import build_fixed
from testbed.workload.plan import Workload
from testbed.workload.weka import build_weka


def build_workload(spec: WorkloadSpec, seed: int) -> Workload:
    """The same spec and seed always give the same workload; raises InputError."""
    if isinstance(spec, FixedWorkload):
        return build_fixed(spec, seed)
    return build_weka(spec, seed)
