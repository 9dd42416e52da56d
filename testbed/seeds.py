"""Is it real? Policies over several seeds, paired by seed, and the interval of each speed-up.

A seed changes what agents bring and the order of what happens in one instant, so two runs differ
even if nothing else does. A speed-up is told with the interval in which it lies.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from testbed.errors import InputError, RunFailed
from testbed.policies import Chosen, choose
from testbed.results.interval import FEWEST_PAIRS, Interval, paired_ratio
from testbed.results.schema import Verdict
from testbed.results.verdict import join
from testbed.session import new_folder, require_playable, write_result
from testbed.spec import LARGEST_SEED, Experiment
from testbed.variants import Played, Variant, play_variants
from testbed.workload import build_workload

MOST_SEEDS = 1000
BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "no difference", "cannot be told"


class Figures(msgspec.Struct, frozen=True):
    """One policy on one seed: steady throughput, mean TTFT and mean JCT, in target units."""

    policy: str
    seed: int
    turns_per_s: float
    ttft_s: float
    jct_s: float
    verdict: Verdict


class Gain(msgspec.Struct, frozen=True):
    """How much better than the first policy; times are the first's over this one's.

    `interval` is null where a figure of some seed is 0, which has no ratio.
    """

    interval: Interval | None
    reading: str


class Gains(msgspec.Struct, frozen=True):
    """One policy against the first."""

    throughput: Gain
    ttft: Gain
    jct: Gain


class SeedsComparison(msgspec.Struct, frozen=True):
    """What `compare --seeds --json` prints; a policy that is asked for twice has a numbered label.

    `gains` has every policy but the first, each with 95 % intervals.
    """

    experiment: str
    world: str
    seeds: tuple[int, ...]
    policies: tuple[str, ...]
    gains: dict[str, Gains]
    figures: tuple[Figures, ...]
    verdict: Verdict
    notes: tuple[str, ...]
    folder: str


def seeds_of(asked: str, first: int) -> tuple[int, ...]:
    """`5` is five seeds from the first one on, `3,7,9` are these; raises InputError."""
    try:
        numbers = [int(word) for word in asked.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {asked}: is neither a number nor a list like 3,7,9") from error
    if "," not in asked:
        if numbers[0] > MOST_SEEDS:
            raise InputError(f"--seeds {asked}: is more than {MOST_SEEDS}; choose fewer")
        numbers = [first + number for number in range(numbers[0])]
    if wrong := [number for number in numbers if not 0 <= number <= LARGEST_SEED]:
        raise InputError(
            f"--seeds {asked}: has seed {wrong[0]}; a seed is between 0 and {LARGEST_SEED}"
        )
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds {asked}: names a seed twice; name each once")
    if len(numbers) < FEWEST_PAIRS:
        raise InputError(
            f"--seeds {asked}: an interval needs at least {FEWEST_PAIRS} seeds; "
            "for one seed, use --seed"
        )
    return tuple(numbers)


def labelled(words: Sequence[str]) -> dict[str, Chosen]:
    """A label for each policy asked for, numbered from the second time on; raises InputError."""
    chosen = dict(zip(dict.fromkeys(words), choose(list(dict.fromkeys(words))), strict=True))
    found: dict[str, Chosen] = {}
    seen: Counter[str] = Counter()
    for word in words:
        seen[word] += 1
        name = chosen[word].name
        found[name if seen[word] == 1 else f"{name} ({seen[word]})"] = chosen[word]
    return found


def compare_seeds(
    experiment: Experiment,
    name: str,
    words: Sequence[str],
    seeds: Sequence[int],
    world: str,
    processes: int,
    root: Path,
    progress: Callable[[int, int], None],
) -> SeedsComparison:
    """Play every policy on every seed, in the emulated world one after the other.

    InputError before anything is created; RunFailed names the policy and seed that did not end.
    """
    named = labelled(words)
    seeded = {seed: msgspec.structs.replace(experiment, seed=seed) for seed in seeds}
    for seed, one in seeded.items():
        workload = build_workload(one.workload, seed)
        require_playable(one, workload, list(named.values()), world)
    variants = {
        (label, seed): Variant(one, name, policy, world)
        for seed, one in seeded.items()
        for label, policy in named.items()
    }
    folder = new_folder(root, f"{name}-seeds")
    (folder / "experiment.yaml").write_text(experiment.resolved())
    found: dict[tuple[str, int], Figures] = {}

    def ended(key: tuple[str, int], played: Played | Exception) -> None:
        found[key] = _figures(key, played)
        progress(len(found), len(variants))

    progress(0, len(variants))
    with tempfile.TemporaryDirectory(prefix="playing-", dir=folder) as scratch:
        play_variants(variants, processes, Path(scratch), ended)
    comparison = SeedsComparison(
        experiment=name,
        world=world,
        seeds=tuple(seeds),
        policies=tuple(named),
        gains=gains(list(named), seeds, found),
        figures=tuple(found[key] for key in variants),
        verdict=_joined(named, found),
        notes=notes(found),
        folder=str(folder),
    )
    write_result(folder, comparison)
    return comparison


def _figures(key: tuple[str, int], played: Played | Exception) -> Figures:
    label, seed = key
    if isinstance(played, RunFailed):
        raise RunFailed(f"{label} on seed {seed}: {played}") from played
    if isinstance(played, Exception):
        raise played
    result = played.result
    return Figures(
        label,
        seed,
        result.throughput_turns_per_s,
        result.ttft_s.mean,
        result.jct_s.mean,
        played.verdict,
    )


def _joined(named: Mapping[str, Chosen], found: Mapping[tuple[str, int], Figures]) -> Verdict:
    """As good as the worst run; a cause that several seeds share is told once."""
    worst = join({f"{label} {seed}": run.verdict for (label, seed), run in found.items()})
    shared: dict[str, list[int]] = {}
    for (label, seed), run in sorted(found.items()):
        for cause in run.verdict.causes:
            words = cause.removeprefix(f"{named[label].name}: ")
            shared.setdefault(f"{label}: {words}", []).append(seed)
    causes = [f"seed {', '.join(map(str, of))}: {cause}" for cause, of in shared.items()]
    return msgspec.structs.replace(worst, causes=tuple(causes))


def notes(found: Mapping[tuple[str, int], Figures]) -> tuple[str, ...]:
    """What makes intervals say less than they seem to."""
    told = {(label, run.turns_per_s, run.ttft_s, run.jct_s) for (label, _), run in found.items()}
    if len(told) > len({label for label, _ in found}):
        return ()
    return (
        "every seed gave the same figures: nothing that matters here is drawn from the seed, so "
        "the intervals say nothing about chance",
    )


def gains(
    named: Sequence[str], seeds: Sequence[int], found: Mapping[tuple[str, int], Figures]
) -> dict[str, Gains]:
    """Each policy against the first, paired by seed; above 1 is better."""
    first = [found[named[0], seed] for seed in seeds]
    against = {label: [found[label, seed] for seed in seeds] for label in named[1:]}
    return {
        label: Gains(
            gain([run.turns_per_s for run in runs], [run.turns_per_s for run in first]),
            gain([run.ttft_s for run in first], [run.ttft_s for run in runs]),
            gain([run.jct_s for run in first], [run.jct_s for run in runs]),
        )
        for label, runs in against.items()
    }


def gain(over: Sequence[float], under: Sequence[float]) -> Gain:
    """A ratio with its interval, and what that says."""
    if min(*over, *under) <= 0:
        return Gain(None, UNKNOWN)
    interval = paired_ratio(over, under)
    if interval.spans_one:
        return Gain(interval, SAME)
    return Gain(interval, BETTER if interval.ratio > 1 else WORSE)
