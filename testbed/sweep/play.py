"""Plays the points of a grid into its table, and never one that is there already."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from testbed.errors import EnvironmentUnfit
from testbed.results.verdict import FAILED, INCONCLUSIVE
from testbed.sweep.grid import Point, columns
from testbed.sweep.table import ERROR, KEY, Line, opened
from testbed.variants import Played, Variant, play_variants

PLAYING = "playing-"  # folders of runs under way
SLO_TTFT_S, SLO_TPOT_S = 4.0, 0.050  # DualPath section 7


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a line of the table tells of a run, in target units; all null where it failed.

    `slo_ok`: the mean TTFT is at most 4 s and the mean TPOT at most 50 ms. `causes` are what the
    run's verdicts on itself say, `wall_s` is real seconds.
    """

    turns_per_s: float | None = None
    ttft_mean_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    ttst_mean_s: float | None = None
    tpot_mean_s: float | None = None
    jct_mean_s: float | None = None
    slo_ok: bool | None = None
    binds: str | None = None
    bound_turns_per_s: float | None = None
    functional: str | None = None
    timing: str | None = None
    causes: str | None = None
    completed_turns: int | None = None
    failed_turns: int | None = None
    wall_s: float | None = None
    error: str | None = None


class Swept(NamedTuple):
    """All lines in the grid's order, how many were there before, and how many were torn."""

    lines: list[Line]
    before: int
    torn: int


def sweep(
    points: Sequence[Point],
    name: str,
    folder: Path,
    world: str,
    processes: int,
    progress: Callable[[int, int], None],
) -> Swept:
    """Play what the folder's table lacks, so many points at a time; `progress` counts points.

    A point that fails has a line with its `error`. InputError if the folder cannot be used.
    """
    keys = [point.digest for point in points]
    with opened(folder) as table:
        for left in folder.glob(f"{PLAYING}*"):  # by a sweep that was killed
            shutil.rmtree(left, ignore_errors=True)
        before = table.arrange(keys)
        asked = {point.digest: point for point in points if point.digest not in before}
        done = len(before)
        progress(done, len(points))

        def ended(key: str, found: Played | Exception) -> None:
            nonlocal done
            table.add(line_of(asked[key], found))
            done += 1
            progress(done, len(points))

        with tempfile.TemporaryDirectory(prefix=PLAYING, dir=folder) as scratch:
            variants = {
                key: Variant(point.experiment, name, point.policy, world)
                for key, point in asked.items()
            }
            play_variants(variants, processes, Path(scratch), ended)
        return Swept(table.finish(keys), len(before), table.torn)


def line_of(point: Point, found: Played | Exception) -> Line:
    """A line of the table; raises what says that no point can be played on this machine."""
    if isinstance(found, EnvironmentUnfit):
        raise found
    if isinstance(found, Exception):
        seen = Measured(error=f"{type(found).__name__}: {found}")
    else:
        seen = measured(found)
    return {**columns(point), **msgspec.to_builtins(seen), KEY: point.digest}


def measured(played: Played) -> Measured:
    """What a line tells of a run."""
    result, verdict = played.result, played.verdict
    return Measured(
        turns_per_s=result.throughput_turns_per_s,
        ttft_mean_s=result.ttft_s.mean,
        ttft_p50_s=result.ttft_s.p50,
        ttft_p99_s=result.ttft_s.p99,
        ttst_mean_s=result.ttst_s.mean,
        tpot_mean_s=result.tpot_s.mean,
        jct_mean_s=result.jct_s.mean,
        slo_ok=result.ttft_s.mean <= SLO_TTFT_S and result.tpot_s.mean <= SLO_TPOT_S,
        binds=result.bound.binds,
        bound_turns_per_s=result.bound.turns_per_s,
        functional=verdict.functional,
        timing=verdict.timing,
        causes="; ".join(verdict.causes),
        completed_turns=result.completed_turns,
        failed_turns=result.failed_turns,
        wall_s=round(played.wall_s, 3),
    )


def failures(lines: Sequence[Line]) -> list[Line]:
    """Points without a result, and those whose run was wrong."""
    return [line for line in lines if line[ERROR] or line["functional"] == FAILED]


def doubts(lines: Sequence[Line]) -> list[Line]:
    """Points whose times cannot be trusted."""
    return [line for line in lines if line["timing"] == INCONCLUSIVE]
