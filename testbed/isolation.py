"""Traffic isolation, three ways: an experiment without KV, with classes, and without classes.

Arrivals, appended and generated tokens, model, links, seed and policy are the same in all three, so
collectives are too. Without KV a context is a single cached block, and classes are on.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from testbed.errors import InputError
from testbed.policies import Chosen
from testbed.results.schema import Comparison, PolicyResult, Verdict
from testbed.session import compared, new_folder, play, require_playable, write_result
from testbed.spec import BLOCK_TOKENS, Experiment
from testbed.spec_workload import FixedWorkload
from testbed.workload import build_workload

NO_KV, CLASSES, NO_CLASSES = "without KV", "with classes", "no classes"
VARIANTS = (NO_KV, CLASSES, NO_CLASSES)
WITHIN = 0.05  # of the run without KV, that TPOT and collectives may lose beside KV with classes
SUFFERS = 1.25  # times as slow are they without, at least

Progress = Callable[[str, str, int, int], None]  # variant, phase, turns ended, turns planned


class Ratio(msgspec.Struct, frozen=True):
    """A time over that of the run without KV: with classes, and without."""

    what: str
    classes: float
    no_classes: float


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """The three experiments; InputError for one that shows nothing."""
    workload, cluster = experiment.workload, experiment.cluster
    if not isinstance(workload, FixedWorkload):
        raise InputError(
            "isolation compares runs of one length of context: workload.kind must be fixed"
        )
    hosts = min(cluster.group_nodes, cluster.decode_nodes)
    if hosts * (1 if cluster.folded else cluster.gpus_per_node) == 1:
        raise InputError(
            "no decode group of this cluster spans hosts, so its collectives cross no network; "
            "set cluster.folded=false with several GPUs a node, or cluster.group_nodes to 2"
        )
    if workload.aps is None:
        raise InputError(
            "isolation needs turns that come alike in all three runs: set workload.aps, the "
            "agents that arrive a second"
        )
    short = msgspec.structs.replace(workload, cached_tokens=BLOCK_TOKENS)
    return {
        NO_KV: msgspec.structs.replace(experiment, workload=short, qos=True),
        CLASSES: msgspec.structs.replace(experiment, qos=True),
        NO_CLASSES: msgspec.structs.replace(experiment, qos=False),
    }


def play_isolation(
    experiment: Experiment, name: str, policy: Chosen, root: Path, progress: Progress, world: str
) -> Comparison:
    """Play all three, one after the other, into a folder of their own."""
    chosen = variants(experiment)
    workloads = {key: build_workload(one.workload, one.seed) for key, one in chosen.items()}
    for key, one in chosen.items():
        require_playable(one, workloads[key], [policy], world)
    folder = new_folder(root, f"{name}-isolation")
    results: dict[str, PolicyResult] = {}
    verdicts: dict[str, Verdict] = {}
    for key, one in chosen.items():

        def tell(_: str, phase: str, ended: int, planned: int, key: str = key) -> None:
            progress(key, phase, ended, planned)

        slug = key.replace(" ", "-").lower()
        played = play(one, slug, workloads[key], [policy], folder, tell, world)
        results[key] = played.policies[policy.name]
        verdicts[key] = played.verdict
    base = results[NO_KV].throughput_turns_per_s
    speedup = {
        key: result.throughput_turns_per_s / base if base else 0.0
        for key, result in results.items()
    }
    comparison = compared(experiment, name, world, folder, results, verdicts, speedup)
    write_result(folder, comparison)
    return comparison


def ratios(results: dict[str, PolicyResult]) -> tuple[Ratio, ...]:
    """What decode lost to KV beside it, with classes and without."""

    def over(what: str, measure: Callable[[PolicyResult], float]) -> Ratio:
        base = measure(results[NO_KV])
        return Ratio(
            what,
            *(measure(results[key]) / base if base else 0.0 for key in (CLASSES, NO_CLASSES)),
        )

    return (
        over("TPOT, mean", lambda r: r.tpot_s.mean),
        over("collectives of decode, p99", lambda r: r.collectives["de"].p99_ms),
    )
