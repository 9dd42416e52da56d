"""The entry point: finds a verb's file when it is called, and turns errors into exit codes.

0 done, 1 the check failed, 2 bad input, 3 inconclusive, 4 this machine cannot, 130 interrupted.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from scheduler.errors import DualPathError
from testbed.owner import hand_over
from testbed.yamlfile import nearest

VERBS = {
    "doctor": "Try everything that the emulated world needs of this machine.",
    "validate": "Check an experiment file; create nothing.",
    "run": "Play an experiment under one policy.",
    "compare": "Play an experiment under several policies, and say who wins and why.",
    "explain": "Why a request of a finished run went where it went.",
    "whatif": "Halve and double each resource in virtual time: what would help?",
    "isolation": "What KV does to collectives and decode, with traffic classes and without.",
    "sweep": "Play a grid of experiments into one table; goes on where it was stopped.",
    "decide": "Feed a run's recorded events to any scheduler, without a cluster.",
    "scheduler": "Our own scheduler as a process that speaks the protocol.",
    "new": "Write the first lines of a policy of your own.",
    "lab": "For students: start a lab, check it, and hand in a report.",
    "up": "Bring up an experiment's network, for programs of your own.",
    "down": "End a live cluster; nothing of it is left.",
    "status": "Which clusters are up, with their links, counters and marks.",
    "exec": "Run a program of yours in a host of a live cluster.",
    "shell": "A shell in a host, or Mininet's command line on the whole cluster.",
    "link": "Show, change and reset the links of a live cluster.",
    "qos": "Traffic classes of a live cluster: show, on, off, marks by port.",
    "capture": "Record what crosses an interface, or read a recording.",
    "graph": "Draw a cluster or an experiment: SVG, Mermaid or dot.",
    "logs": "What a cluster and its hosts wrote.",
    "mn": "Stock Mininet in private namespaces, unmodified.",
    "clean": "Remove what runs left on disk.",
}
INTERRUPTED = 130


class Verbs(click.Group):
    """Imports a verb only when it is called: some of them need torch, which takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order in which they are met."""
        return list(VERBS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Verbs and what they do, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's `command`; raises UsageError with the nearest verb."""
        if cmd_name not in VERBS:
            known = nearest(cmd_name, list(VERBS), "verb")
            raise click.UsageError(f"no verb {cmd_name!r}; {known}")
        command: click.Command = import_module(f"testbed.cli.{cmd_name}").command
        return command


@click.group(cls=Verbs)
@click.version_option(package_name="dualpath-testbed")
def group() -> None:
    """A whole prefill/decode-disaggregated LLM cluster on one machine, without GPU or root."""


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. A verb's own code is the number that it returns."""
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C does: clean up, say so, and leave
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        result = group.main(
            args=None if argv is None else list(argv),
            prog_name="testbed",
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(
            f"testbed: {where}{error.strerror or error}; check the path and its disk", err=True
        )
        return 1
    except DualPathError as error:
        click.echo(f"testbed: {error}", err=True)
        return int(getattr(error, "exit_code", 1))
    finally:
        hand_over()
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
