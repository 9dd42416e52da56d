"""What would help: each resource halved and doubled, one at a time, in virtual time.

The advice behind it is old: expect the bottleneck to move. What binds now is one answer, what
binds after the best upgrade is the other.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from testbed.errors import RunFailed
from testbed.policies import Chosen
from testbed.results.schema import PolicyResult
from testbed.spec import Experiment
from testbed.variants import Played, Variant, play_variants

HALF, TWICE = 0.5, 2.0
NOTABLE = 0.05  # a gain below this may be chance: in which order turns of one instant come


class Resource(NamedTuple):
    """Keys of an experiment that say how much of a resource there is, or how little time it takes.

    `per_unit` ones are times: more of the resource makes them smaller.
    """

    name: str
    keys: tuple[str, ...]
    per_unit: bool = False


RESOURCES = (
    Resource("SNIC", ("hardware.snic_bytes_per_s",)),
    Resource("CNIC", ("hardware.cnic_bytes_per_s",)),
    Resource("DRAM bandwidth", ("hardware.dram_bytes_per_s",)),
    Resource("decode HBM", ("hardware.hbm_kv_bytes_per_gpu",)),
    Resource(
        "GPU",
        ("model.per_token_s", "model.per_pair_s", "model.expert_per_token_s"),
        per_unit=True,
    ),
    Resource("decisions", ("engine.fetch_period_s",), per_unit=True),
    Resource("reads in flight", ("engine.reads_in_flight",)),
)


class Outcome(msgspec.Struct, frozen=True):
    """One run: steady throughput, mean TTFT, and what limits it (and to how much)."""

    turns_per_s: float
    ttft_s: float
    binds: str
    bound_turns_per_s: float


class Change(msgspec.Struct, frozen=True):
    """A resource halved and doubled; gains are ratios to the throughput as it is."""

    resource: str
    half: Outcome
    twice: Outcome
    half_gain: float
    twice_gain: float


class Answer(msgspec.Struct, frozen=True):
    """Changes, the most helpful first; `upgrade` is empty if no doubling helps."""

    experiment: str
    policy: str
    now: Outcome
    changes: tuple[Change, ...]
    upgrade: str
    then: Outcome


def changed(experiment: Experiment, resource: Resource, factor: float) -> Experiment:
    """The experiment with `factor` times as much of a resource."""
    for key in resource.keys:
        section, field = key.split(".")
        part = getattr(experiment, section)
        value = getattr(part, field)
        scaled = value / factor if resource.per_unit else value * factor
        if isinstance(value, int):
            scaled = max(1, round(scaled))
        part = msgspec.structs.replace(part, **{field: scaled})
        experiment = msgspec.structs.replace(experiment, **{section: part})
    hbm = experiment.hardware.hbm_kv_bytes_per_gpu
    if experiment.engine.prefill_gpu_pool_bytes > hbm:
        engine = msgspec.structs.replace(experiment.engine, prefill_gpu_pool_bytes=hbm)
        experiment = msgspec.structs.replace(experiment, engine=engine)
    return experiment


def outcome(result: PolicyResult) -> Outcome:
    """What the answer tells of one run."""
    return Outcome(
        result.throughput_turns_per_s,
        result.ttft_s.mean,
        result.bound.binds,
        result.bound.turns_per_s,
    )


def ask(
    experiment: Experiment,
    name: str,
    policy: Chosen,
    progress: Callable[[int, int], None],
    processes: int,
) -> Answer:
    """Play everything, as many variants at a time as there are processes.

    RunFailed says which resource's variant cannot come to its end.
    """
    variants = {key: Variant(other, name, policy) for key, other in _variants(experiment)}
    found: dict[tuple[str, float], Outcome] = {}

    def ended(key: tuple[str, float], played: Played | Exception) -> None:
        found[key] = outcome(_taken(key, played).result)
        progress(len(found), len(variants))

    with tempfile.TemporaryDirectory(prefix="dualpath-whatif-") as scratch:
        play_variants(variants, processes, Path(scratch), ended)
    return _answer(name, policy.name, found)


def _variants(experiment: Experiment) -> Iterator[tuple[tuple[str, float], Experiment]]:
    yield ("", 1.0), experiment
    for resource in RESOURCES:
        for factor in (HALF, TWICE):
            yield (resource.name, factor), changed(experiment, resource, factor)


def _taken(key: tuple[str, float], played: Played | Exception) -> Played:
    if isinstance(played, RunFailed):
        name, factor = key
        what = f"with {factor:g} times the {name}" if name else "as it is"
        raise RunFailed(f"the experiment {what}: {played}") from played
    if isinstance(played, Exception):
        raise played
    return played


def _answer(name: str, policy: str, found: dict[tuple[str, float], Outcome]) -> Answer:
    now = found["", 1.0]

    def gain(changed: Outcome) -> float:
        return changed.turns_per_s / now.turns_per_s if now.turns_per_s else 0.0

    changes = sorted(
        (
            Change(
                resource.name,
                found[resource.name, HALF],
                found[resource.name, TWICE],
                gain(found[resource.name, HALF]),
                gain(found[resource.name, TWICE]),
            )
            for resource in RESOURCES
        ),
        key=lambda change: (-change.twice_gain, change.half_gain),
    )
    best = changes[0]
    helps = best.twice_gain > 1 + NOTABLE
    return Answer(
        name,
        policy,
        now,
        tuple(changes),
        best.resource if helps else "",
        best.twice if helps else now,
    )


def words(answer: Answer) -> Sequence[str]:
    """The answer in sentences."""
    now, then = answer.now, answer.then
    said = [f"Now {now.turns_per_s:.1f} turns/s; {now.binds} at most {now.bound_turns_per_s:.1f}."]
    if answer.upgrade:
        said.append(
            f"Twice the {answer.upgrade} gives {then.turns_per_s:.1f}; then the limit is "
            f"{then.binds}, at {then.bound_turns_per_s:.1f}."
        )
    else:
        said.append("Twice of no single resource gives more.")
    return [*said, f"Differences below {NOTABLE:.0%} may be chance."]
