"""`testbed scheduler`: our own scheduler as a process that speaks the protocol."""

import socket
import sys
from pathlib import Path
from typing import BinaryIO, cast

import click

from scheduler.errors import DualPathError, SchedulerError
from scheduler.lookup import lookup
from testbed.errors import InputError
from testbed.external.serve import serve


@click.command("scheduler")
@click.option("--policy", default="dualpath", show_default=True, help="The policy.")
@click.option(
    "--listen", type=click.Path(path_type=Path),
    help="A Unix socket to listen on, run after run; by default it is standard input and output.",
)  # fmt: skip
def command(policy: str, listen: Path | None) -> None:
    """Decide for a cluster elsewhere: events in, decisions out, as lines of docs/protocol.md."""
    try:
        lookup(policy)
    except SchedulerError as error:
        raise InputError(str(error)) from error
    if listen is None:
        serve(sys.stdin.buffer, sys.stdout.buffer, policy)
    else:
        _listen(listen, policy)


def _listen(path: Path, policy: str) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.bind(str(path))
        except OSError as error:
            raise InputError(
                f"--listen {path}: {error.strerror or error}; choose a path where nothing is yet"
            ) from error
        try:
            door.listen()
            click.echo(f"listening on {path}", err=True)
            while True:
                end, _ = door.accept()
                _serve_one(end, policy)
        finally:
            path.unlink(missing_ok=True)


def _serve_one(end: socket.socket, policy: str) -> None:
    """One run; whatever ends it before its time, the next one may come."""
    try:
        with end, end.makefile("rwb") as lines:
            serve(lines, cast(BinaryIO, lines), policy)
    except DualPathError as error:
        click.echo(f"testbed: {error}", err=True)
    except ConnectionError:
        click.echo("testbed: a run went away before its end", err=True)
