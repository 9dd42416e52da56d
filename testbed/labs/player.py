"""The process that a student's code runs in: plays jobs one after another, and writes what came.

What a student's file prints, how long it takes and whether it ends is its parent's business
(testbed/labs/play.py).
"""

import faulthandler
import random
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import msgspec

from engines.agents import TurnRecord
from scheduler.errors import DualPathError, SchedulerError
from scheduler.lookup import lookup
from testbed.bound import Reads, bound
from testbed.labs.watched import Choices, Record, watch
from testbed.policies import choose_one
from testbed.results.metrics import measure
from testbed.results.rundata import RunData
from testbed.results.schema import PolicyResult
from testbed.results.verdict import PASSED, judge
from testbed.spec import Experiment, load_experiment
from testbed.workload import build_workload
from testbed.worlds import virtual
from testbed.worlds.layout import Layout

JOBS, DUMP = "jobs.json", "stack.txt"
EXPERIMENT, STARTER, WATCHED = "experiment.yaml", "starter.py", "watched.py"
MINE = f"{STARTER}:POLICY"
DECIMALS = 3  # what lies behind them may differ between machines


class Job(msgspec.Struct, frozen=True):
    """One run: `policy` is a name, or MINE."""

    variation: str
    settings: tuple[str, ...]
    policy: str


class Jobs(msgspec.Struct, frozen=True):
    """What a player plays, and how many seconds each run may take."""

    jobs: tuple[Job, ...]
    limit_s: float


class Played(msgspec.Struct, frozen=True, tag="played"):
    """What is measured of a run; `turns_per_s` over the whole of it.

    `snic` is how far each node's storage NIC was used in steady state, `read_share` its part of all
    bytes read, and `wrong` what the run's verdict on itself found.
    """

    turns: int
    failed: int
    tokens_checked: int
    tokens_equal: int
    turns_per_s: float
    ttft_s: float
    snic: dict[str, float]
    read_share: dict[str, float]
    choices: Choices
    wrong: tuple[str, ...] = ()

    @property
    def busiest(self) -> float:
        """Most of what a storage NIC has read over the mean of all."""
        shares = self.read_share.values()
        return max(shares) * len(shares) if any(shares) else 0.0


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """A run that did not come to its end.

    `kind` is "load", "raised", "answer", "stuck", "loop" or "ended".
    """

    kind: str
    what: str


Outcome = Played | Broken


def outcome_file(number: int) -> str:
    """Where the outcome of a job is written."""
    return f"outcome-{number}.json"


def main() -> None:
    """Play the jobs of the working folder, as far as it goes."""
    jobs = msgspec.json.decode(Path(JOBS).read_bytes(), type=Jobs)
    Path(WATCHED).write_text("from testbed.labs.watched import policy as POLICY\n")
    with Path(DUMP).open("w") as dump:
        for number, job in enumerate(jobs.jobs):
            faulthandler.dump_traceback_later(jobs.limit_s, exit=True, file=dump)
            random.seed(0)  # code that draws lots without a seed draws the same ones each time
            outcome = _play(job)
            Path(outcome_file(number)).write_bytes(msgspec.json.encode(outcome))
        faulthandler.cancel_dump_traceback_later()


def _play(job: Job) -> Outcome:
    record = watch(job.policy)
    try:
        with redirect_stdout(StringIO()):  # what it prints is told when it is played
            lookup(job.policy)
    except (SchedulerError, SystemExit) as error:
        return Broken("load", str(error) or "it ends the program")
    settings = ["scale.time_scale=1.0", *job.settings]
    experiment = load_experiment(Path(EXPERIMENT), settings)
    try:
        return _measured(experiment, record)
    except Exception as error:
        if record.fault is not None:
            return Broken(record.fault.kind, record.fault.what)
        if isinstance(error, DualPathError):
            return Broken("stuck", str(error))
        raise


def _measured(experiment: Experiment, record: Record) -> Played:
    workload = build_workload(experiment.workload, experiment.seed)
    layout = Layout(experiment, workload, choose_one(WATCHED), Path(), Path())
    run = virtual.run(layout.plan(run_id=1), lambda *_: None)
    result = measure(
        run,
        lambda turns, offered: bound(experiment, turns, Reads.BOTH, len(workload.agents), offered),
        layout.pipeline_turns,
    )
    verdict = judge(run, result)
    return _played(run, result, record, verdict.causes if verdict.functional != PASSED else ())


def _played(run: RunData, result: PolicyResult, record: Record, wrong: tuple[str, ...]) -> Played:
    read = {node: result.bytes[f"{node}-buf:snic:rx"] for node in result.snic_utilisation}
    total = sum(read.values()) or 1
    return Played(
        turns=result.completed_turns,
        failed=result.failed_turns,
        tokens_checked=result.tokens_checked,
        tokens_equal=result.tokens_equal,
        turns_per_s=round(result.completed_turns / _length_s(run.turns), DECIMALS),
        ttft_s=round(result.ttft_s.mean, DECIMALS),
        snic={node: round(share, DECIMALS) for node, share in result.snic_utilisation.items()},
        read_share={node: round(count / total, DECIMALS) for node, count in read.items()},
        choices=record.choices,
        wrong=wrong,
    )


def _length_s(turns: list[TurnRecord]) -> float:
    return max(turn.done_s for turn in turns) - min(turn.submitted_s for turn in turns)


if __name__ == "__main__":
    main()
