"""Schedulers in other processes, asked what they want of the engines before anything is made."""

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler.errors import PolicyFailed
from scheduler.protocol import VERSION, Hello
from testbed.cluster import check_fits, cluster_spec
from testbed.errors import RunFailed
from testbed.external.scheduler import ask_ready, is_external
from testbed.policies import Chosen
from testbed.spec import BLOCK_TOKENS, Experiment
from testbed.workload import Workload, averages
from testbed.worlds.knobs import limits


def met(
    policies: Sequence[Chosen], experiment: Experiment, workload: Workload
) -> tuple[Chosen, ...]:
    """The policies, those in other processes with what they answered to `hello`.

    Raises InputError and RunFailed.
    """
    return tuple(
        _asked(policy, experiment, workload) if is_external(policy.word) else policy
        for policy in policies
    )


def _asked(policy: Chosen, experiment: Experiment, workload: Workload) -> Chosen:
    means = averages(workload, BLOCK_TOKENS)
    check_fits(experiment, means)
    hello = Hello(VERSION, cluster_spec(experiment, means), policy.word, limits(experiment))
    try:
        traits = ask_ready(policy.word, hello, experiment.engine.scheduler_deadline_s)
    except PolicyFailed as error:
        raise RunFailed(f"policy {policy.name}: {error}") from error
    return replace(policy, ready=traits)
