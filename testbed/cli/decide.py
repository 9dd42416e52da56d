"""`testbed decide`: recorded events for any scheduler, without a cluster."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from scheduler import protocol
from scheduler.errors import SchedulerError
from scheduler.policy import Policy
from scheduler.protocol import Decided, Hello
from scheduler.scheduler import Decides, Scheduler
from testbed.cli.schedulers import scheduler_options, scheduler_word
from testbed.decide import replay, require_same
from testbed.errors import InputError
from testbed.external.scheduler import DEADLINE_S, external
from testbed.external.serve import make as make_policy
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
    events = decisions = 0
    with _asked(policy, word) as make:
        for step in replay(read_log(log), make):
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
def _asked(policy: str | None, word: str | None) -> Iterator[Callable[[Hello], Decides]]:
    """What makes the scheduler that is asked, as often as the log has `hello`."""
    with tempfile.TemporaryDirectory(prefix="dualpath-scheduler-") as folder, ExitStack() as term:

        def make(hello: Hello) -> Decides:
            term.close()
            if word is not None:
                return term.enter_context(external(word, hello, Path(folder), DEADLINE_S))
            return Scheduler(hello.cluster, _policy(policy or hello.policy, hello))

        yield make


def _policy(name: str, hello: Hello) -> Policy:
    try:
        return make_policy(name, hello.knobs)
    except SchedulerError as error:
        raise InputError(f"{error}; name one with --policy") from error
