"""`testbed decide`: recorded events for any scheduler, without a cluster."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from scheduler import protocol
from scheduler.errors import SchedulerError
from scheduler.protocol import Decided, Hello
from scheduler.scheduler import Decides, Scheduler
from testbed.cli.schedulers import scheduler_options, scheduler_word
from testbed.decide import opening, replay, require_same
from testbed.errors import InputError
from testbed.external.scheduler import DEADLINE_S, external
from testbed.external.serve import make
from testbed.results.scheduler_log import read_log


@click.command("decide")
@click.option(
    "--replay", "log", type=click.Path(path_type=Path), required=True,
    help="A run's scheduler.jsonl.gz, packed or not.",
)  # fmt: skip
@click.option("--policy", help="The policy to ask; by default the recorded one.")
@scheduler_options
@click.option("--check", is_flag=True, help="Exit 1 at the first decision that is another one.")
def command(
    log: Path, policy: str | None, scheduler_cmd: str | None, scheduler: str | None, check: bool
) -> None:
    """Feed recorded events to a scheduler and print what it decides, a JSON line an event."""
    word = scheduler_word(scheduler_cmd, scheduler)
    if word is not None and policy is not None:
        raise InputError("--policy and a scheduler of your own are two schedulers; choose one")
    lines = read_log(log)
    hello = opening(lines)
    events = decisions = 0
    with _asked(hello, policy, word) as decides:
        for step in replay(lines, decides):
            if check:
                require_same(step)
            if step.made:
                sys.stdout.buffer.write(protocol.encode(Decided(step.made)))
            events += 1
            decisions += len(step.made)
    sys.stdout.buffer.flush()
    same = ", all as recorded" if check else ""
    click.echo(f"{events:,} events, {decisions:,} decisions{same}", err=True)


@contextmanager
def _asked(hello: Hello, policy: str | None, word: str | None) -> Iterator[Decides]:
    if word is None:
        try:
            made = make(policy or hello.policy, hello.knobs)
        except SchedulerError as error:
            raise InputError(f"{error}; name one with --policy") from error
        yield Scheduler(hello.cluster, made)
        return
    with (
        tempfile.TemporaryDirectory(prefix="dualpath-scheduler-") as folder,
        external(word, hello, Path(folder), DEADLINE_S) as decides,
    ):
        yield decides
