"""Options for a scheduler in another process."""

from collections.abc import Callable
from typing import Any

import click

from testbed.errors import InputError
from testbed.external.scheduler import COMMAND, SOCKET


def scheduler_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--scheduler-cmd` and `--scheduler`."""
    command = click.option(
        "--scheduler", metavar="unix:PATH",
        help="A scheduler that listens on a Unix socket (docs/protocol.md).",
    )(command)  # fmt: skip
    return click.option(
        "--scheduler-cmd", metavar="COMMAND",
        help="A scheduler of your own: a command that speaks docs/protocol.md.",
    )(command)  # fmt: skip


def scheduler_word(scheduler_cmd: str | None, scheduler: str | None) -> str | None:
    """The word of the process that was asked for, None if none was; raises InputError."""
    if scheduler_cmd is not None and scheduler is not None:
        raise InputError("--scheduler-cmd and --scheduler name two schedulers; choose one")
    if scheduler_cmd is not None:
        return COMMAND + scheduler_cmd
    if scheduler is not None and not scheduler.removeprefix(SOCKET):
        raise InputError(f"--scheduler {scheduler!r} names no socket; give unix:PATH")
    if scheduler is not None and not scheduler.startswith(SOCKET):
        raise InputError(f"--scheduler {scheduler!r} is no address; give unix:PATH")
    return scheduler
