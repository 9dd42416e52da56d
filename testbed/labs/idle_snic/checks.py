"""The assertions of lab idle-snic, and their points."""

from collections.abc import Callable, Mapping

from testbed.errors import RunFailed
from testbed.labs.idle_snic import hints
from testbed.labs.idle_snic.drawn import MAIN, QUIET, WIDE
from testbed.labs.player import Broken, Job, Outcome, Played
from testbed.labs.region import Region
from testbed.labs.result import Check, Hint

MOST_LINES = 30
REFERENCE, BASELINE = "dualpath", "basic"
# Of scheduler/path.py: they are the answer to this lab.
FORBIDDEN = frozenset({"shorter_queue", "left_tokens"})

BUSIEST_MAIN = 1.10  # most of what a storage NIC has read over the mean
BUSIEST_QUIET = 1.20
OVER_BASELINE = 1.60
OF_REFERENCE = 0.95
TTFT_WIDE = 1.10


def reference_jobs(variations: Mapping[str, tuple[str, ...]]) -> dict[str, Job]:
    """What the student's runs are compared with, by the name of the run."""
    jobs = {name: Job(name, variations[name], REFERENCE) for name in (MAIN, WIDE)}
    return {**jobs, BASELINE: Job(MAIN, variations[MAIN], BASELINE)}


def check(
    own: Region, mine: Mapping[str, Outcome], reference: Mapping[str, Outcome]
) -> tuple[Check, ...]:
    """Every assertion, in the order in which a student meets them."""
    theirs = {name: _played(run) for name, run in reference.items()}
    return (
        _file(own),
        _right(mine),
        _busiest(mine[MAIN], "both-sides", "NICs share the reads", BUSIEST_MAIN, 2),
        _throughput(mine[MAIN], theirs[MAIN], theirs[BASELINE]),
        _wide(mine[WIDE], theirs[WIDE]),
        _busiest(mine[QUIET], "quiet", "also with little load", BUSIEST_QUIET, 1),
    )


def _played(run: Outcome) -> Played:
    if isinstance(run, Broken):
        raise RunFailed(f"a run to compare with failed: {run.what}; run the check again")
    return run


def _file(own: Region) -> Check:
    fault = own.fault
    if not fault and own.lines > MOST_LINES:
        fault = f"there are {own.lines} lines of code between the marks"
    return _check(
        "file", "only your lines changed", 1, not fault,
        f"{own.lines} lines" if not own.fault else "elsewhere too", f"at most {MOST_LINES} lines",
        lambda: hints.of_file(fault),
    )  # fmt: skip


def _right(mine: Mapping[str, Outcome]) -> Check:
    title, expected = "runs, every token right", "all of them"
    broken = next((run for run in mine.values() if isinstance(run, Broken)), None)
    if broken is not None:
        return _check(
            "right", title, 1, False, "did not end", expected, lambda: hints.of_broken(broken)
        )
    runs = [run for run in mine.values() if isinstance(run, Played)]
    checked = sum(run.tokens_checked for run in runs)
    equal = sum(run.tokens_equal for run in runs)
    failed = sum(run.failed for run in runs)
    wrong = [cause for run in runs for cause in run.wrong]
    return _check(
        "right", title, 1, not failed and not wrong and checked == equal > 0,
        f"{equal} of {checked}", expected,
        lambda: Hint("wrong", (wrong[0], "Take back all but `side`.", "scheduler/path.py")),
    )  # fmt: skip


def _busiest(run: Outcome, name: str, title: str, limit: float, points: int) -> Check:
    expected = f"busiest at most {limit:.2f}"
    if isinstance(run, Broken):
        return _not_played(name, title, points, expected, run)
    return _check(
        name, title, points, run.busiest <= limit, f"{run.busiest:.2f} x mean", expected,
        lambda: hints.of_choices(run),
    )  # fmt: skip


def _throughput(run: Outcome, reference: Played, baseline: Played) -> Check:
    name, title, points = "throughput", "more requests a second", 3
    least = max(OVER_BASELINE * baseline.turns_per_s, OF_REFERENCE * reference.turns_per_s)
    expected = f"{least:.1f}/s or more"
    if isinstance(run, Broken):
        return _not_played(name, title, points, expected, run)
    return _check(
        name, title, points, run.turns_per_s >= least,
        f"{run.turns_per_s:.1f}/s, {run.turns_per_s / baseline.turns_per_s:.2f} x basic", expected,
        lambda: hints.of_choices(run),
    )  # fmt: skip


def _wide(run: Outcome, reference: Played) -> Check:
    name, title, points = "other-cluster", "also with unequal NICs", 2
    most_s = TTFT_WIDE * reference.ttft_s
    expected = f"TTFT {most_s:.2f} s or less"
    if isinstance(run, Broken):
        return _not_played(name, title, points, expected, run)
    return _check(
        name, title, points, run.ttft_s <= most_s, f"TTFT {run.ttft_s:.2f} s", expected,
        lambda: hints.of_choices(run),
    )  # fmt: skip


def _not_played(name: str, title: str, points: int, expected: str, run: Broken) -> Check:
    return _check(name, title, points, False, "no run", expected, lambda: hints.of_broken(run))


def _check(
    name: str, title: str, points: int, passed: bool, measured: str, expected: str,
    hint: Callable[[], Hint],
) -> Check:  # fmt: skip
    given = points if passed else 0
    return Check(name, title, passed, given, points, measured, expected, None if passed else hint())
