"""The experiment's values for what a policy limits."""

from scheduler.lookup import lookup
from testbed.spec import Experiment


def knobs(experiment: Experiment, policy: str) -> dict[str, float]:
    """The experiment's values for those limits that the policy sets at all."""
    engine, limits = experiment.engine, lookup(policy).traits
    values: dict[str, float] = {
        "read_ahead": engine.read_ahead,
        "quota_s": engine.prefill_quota_s,
        "max_tokens": engine.max_forward_tokens,
    }
    return {name: value for name, value in values.items() if getattr(limits, name) is not None}
