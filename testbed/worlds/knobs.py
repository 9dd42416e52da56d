"""The experiment's values for what a policy limits."""

from testbed.policies import Chosen
from testbed.spec import Experiment


def knobs(experiment: Experiment, policy: Chosen) -> dict[str, float]:
    """The experiment's values for those limits that the policy sets at all."""
    engine, limits = experiment.engine, policy.make().traits
    values: dict[str, float] = {
        "read_ahead": engine.read_ahead,
        "quota_s": engine.prefill_quota_s,
        "max_tokens": engine.max_forward_tokens,
    }
    return {name: value for name, value in values.items() if getattr(limits, name) is not None}
