"""What the emulated world asks of a machine before it makes anything."""

from pathlib import Path

import pytest

from testbed.errors import EnvironmentUnfit
from testbed.policies import choose_one
from testbed.spec import load_experiment
from testbed.workload import build_workload
from testbed.worlds.emulated import require_memory
from testbed.worlds.layout import Layout
from testbed.worlds.plan import LabPlan

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"


def plan(*settings: str) -> LabPlan:
    experiment = load_experiment(FILE, ["workload.agents=4", *settings])
    workload = build_workload(experiment.workload, 0)
    return Layout(experiment, workload, choose_one("dualpath"), Path("f"), Path("c")).plan(1)


def test_memories_of_the_packaged_experiments_fit() -> None:
    require_memory(plan())


def test_memories_that_do_not_fit_are_refused_with_their_size() -> None:
    with pytest.raises(EnvironmentUnfit, match=r"take \d+\.\d GB here .* raise scale.token_scale"):
        require_memory(plan("scale.token_scale=1"))
