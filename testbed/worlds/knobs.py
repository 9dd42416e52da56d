"""The experiment's values for what a policy limits."""

from collections.abc import Mapping

from scheduler.policy import Traits
from testbed.policies import Chosen
from testbed.spec import Experiment


def knobs(experiment: Experiment, policy: Chosen) -> dict[str, float]:
    """The experiment's values for those limits that the policy sets at all.

    A scheduler in another process is told all of them, before it says what it limits.
    """
    values = limits(experiment)
    if policy.ready is not None:
        return values
    return set_by(policy.traits(), values)


def set_by(traits: Traits, values: Mapping[str, float]) -> dict[str, float]:
    """The values for those limits that a policy sets at all."""
    return {name: value for name, value in values.items() if getattr(traits, name) is not None}


def limits(experiment: Experiment) -> dict[str, float]:
    """The experiment's values for all that a policy may limit."""
    engine = experiment.engine
    return {
        "read_ahead": engine.read_ahead,
        "quota_s": engine.prefill_quota_s,
        "max_tokens": engine.max_forward_tokens,
    }
