"""A session: one experiment under one or more policies, in a folder of its own."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import msgspec

from testbed import owner
from testbed.bound import bound, reads_of
from testbed.content import run_digest, workload_digest
from testbed.errors import InputError, RunFailed
from testbed.ideal import as_played, require_io
from testbed.owner import cache_folder as cache_folder
from testbed.policies import Chosen
from testbed.results.events import EVENTS, write_events
from testbed.results.metrics import measure
from testbed.results.rundata import RunData
from testbed.results.schema import Comparison, PolicyResult, Verdict
from testbed.results.verdict import join, judge
from testbed.reuse import keep, reuse
from testbed.spec import Experiment
from testbed.workload import Workload
from testbed.worlds import virtual
from testbed.worlds.layout import Layout
from testbed.worlds.plan import LOOPBACK, NAMESPACES, LabPlan, on_loopback
from topologies.shape import MAX_EMULATED_NODES

Progress = Callable[[str, str, int, int], None]  # policy, phase, turns ended, turns planned
World = Callable[[LabPlan, Callable[[str, int, int], None]], RunData]

RESULT = "result.json"  # of the whole session, in its folder
MARK = ".testbed-run"  # in every folder that a session makes, for `testbed clean`
EMULATED, VIRTUAL = "emulated", "virtual"


def _emulated(plan: LabPlan, progress: Callable[[str, int, int], None]) -> RunData:
    # Imported when it is asked for: most of it only loads on Linux.
    from testbed.worlds import emulated

    return emulated.run(plan, progress)


def require_world(world: str, fabric: str = NAMESPACES) -> None:
    """Raise EnvironmentUnfit unless what the world is made of is installed."""
    if world == EMULATED:
        from testbed.worlds.emulated import require_packages

        require_packages(fabric)


WORLDS: dict[str, World] = {EMULATED: _emulated, VIRTUAL: virtual.run}


def new_folder(root: Path, name: str) -> Path:
    """A folder that nobody else has: `<root>/<name>-<number>`, with our mark in it."""
    try:
        folder = _make_folder(root, name)
        (folder / MARK).touch()
    except OSError as error:
        raise InputError(
            f"--runs {root}: no folder for results can be made there: {error.strerror}; "
            "choose another one"
        ) from error
    return folder


def _make_folder(root: Path, name: str) -> Path:
    if not root.exists():
        owner.created(root)
    root.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = root / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            owner.created(folder)
            return folder


def play(
    experiment: Experiment,
    name: str,
    workload: Workload,
    policies: Sequence[Chosen],
    root: Path,
    progress: Progress,
    world: str = EMULATED,
    fresh: bool = True,
    fabric: str = NAMESPACES,
) -> Comparison:
    """Run every policy, one after the other, and compare each with the first.

    Unless `fresh`, finished runs below `root` stand for those that would only repeat them.
    """
    require_playable(experiment, workload, policies, world)
    folder = new_folder(root, name)
    (folder / "experiment.yaml").write_text(experiment.resolved())
    results: dict[str, PolicyResult] = {}
    verdicts: dict[str, Verdict] = {}
    reused: dict[str, str] = {}
    turns = workload_digest(workload)
    for policy in policies:
        own = folder / policy.folder
        made_of = world if fabric == NAMESPACES else f"{world} on {fabric}"
        digest = run_digest(made_of, experiment, turns, policy)
        timed = world == EMULATED and fabric != LOOPBACK
        if not fresh and (found := reuse(root, digest, timed, own)):
            record, where = found
            results[policy.name], verdicts[policy.name] = record.result, record.verdict
            reused[policy.name] = str(where)
            progress(policy.name, "reused", 0, 0)
            continue
        layout = Layout(experiment, workload, policy, own, cache_folder())
        result, verdict = _play_one(experiment, workload, layout, progress, WORLDS[world], fabric)
        keep(own, digest, result, verdict)
        results[policy.name], verdicts[policy.name] = result, verdict
    first = results[policies[0].name].throughput_turns_per_s
    speedup = {
        name: result.throughput_turns_per_s / first if first else 0.0
        for name, result in results.items()
        if fabric != LOOPBACK
    }
    made = fabric if world == EMULATED else ""
    comparison = compared(
        experiment, name, world, folder, results, verdicts, speedup, reused=reused, fabric=made
    )
    write_result(folder, comparison)
    return comparison


def compared(
    experiment: Experiment,
    name: str,
    world: str,
    folder: Path,
    results: dict[str, PolicyResult],
    verdicts: dict[str, Verdict],
    speedup: dict[str, float],
    *,
    reused: dict[str, str] | None = None,
    fabric: str = "",
) -> Comparison:
    """What a session came to: results and what they are of, under one verdict."""
    return Comparison(
        experiment=name,
        world=world,
        seed=experiment.seed,
        time_scale=experiment.scale.time_scale,
        token_scale=experiment.scale.token_scale,
        verdict=join(verdicts),
        policies=results,
        speedup=speedup,
        folder=str(folder),
        reused=reused or {},
        fabric=fabric,
    )


def write_result(folder: Path, result: object) -> None:
    """What a session came to, for people and programs."""
    (folder / RESULT).write_bytes(msgspec.json.format(msgspec.json.encode(result)))


def require_playable(
    experiment: Experiment, workload: Workload, policies: Sequence[Chosen], world: str
) -> None:
    """Raise InputError for what cannot be played there; to be asked before anything is created."""
    require_size(experiment, world)
    if world == EMULATED:
        require_io(policies)
    for policy in policies:
        Layout(experiment, workload, policy, Path(), Path())


def require_size(experiment: Experiment, world: str) -> None:
    """Raise InputError for a cluster that is too large for the world."""
    if world != EMULATED:
        return
    cluster = experiment.cluster
    for key, nodes in (
        ("prefill_nodes", cluster.prefill_nodes),
        ("decode_nodes", cluster.decode_nodes),
    ):
        if nodes > MAX_EMULATED_NODES:
            raise InputError(
                f"cluster.{key} is {nodes}, and the emulated world takes {MAX_EMULATED_NODES}: "
                "choose fewer, or play in virtual time: --world virtual"
            )


def _play_one(
    experiment: Experiment,
    workload: Workload,
    layout: Layout,
    progress: Progress,
    world: World,
    fabric: str,
) -> tuple[PolicyResult, Verdict]:
    policy = layout.chosen
    plan = layout.plan(run_id=int.from_bytes(os.urandom(4), "big"))
    if fabric == LOOPBACK:
        plan = on_loopback(plan)
    folder = Path(plan.world.folder)
    folder.mkdir(parents=True)
    policy.keep(folder)
    try:
        with redirect_stdout(sys.stderr):  # what a policy prints is talk
            run = world(plan, lambda phase, done, all_: progress(policy.name, phase, done, all_))
    except RunFailed as error:
        raise RunFailed(f"policy {policy.name}: {error}") from error
    finally:
        shutil.rmtree(folder / "store", ignore_errors=True)
    write_events(run, folder / EVENTS)
    result = measure(
        run,
        lambda turns, offered: bound(
            as_played(experiment, policy),
            turns,
            reads_of(policy.reads_like),
            len(workload.agents),
            offered,
        ),
        layout.pipeline_turns,
    )
    return result, judge(run, result)
