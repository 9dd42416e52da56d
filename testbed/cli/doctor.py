"""`testbed doctor`: try, not guess, everything that the emulated world needs of a machine."""

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from testbed.errors import EnvironmentUnfit
from testbed.owner import cache_folder

if TYPE_CHECKING:
    from testbed.fabric.findings import Finding

EXIT_UNFIT = 4
COLOURS = {"ok": "green", "degraded": "yellow", "missing": "red"}
STATUS_WIDTH, NAME_WIDTH, LEAST_WIDTH = 10, 16, 60


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
@click.option("--deep", is_flag=True, help="Import torch and compute with it; takes seconds.")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="The folder of results, whose disk is tried.",
)  # fmt: skip
def command(as_json: bool, deep: bool, runs: Path) -> int:
    """Try each primitive in throw-away private namespaces; exit 4 if one is missing."""
    if sys.platform != "linux":
        raise EnvironmentUnfit(
            "the emulated world needs Linux; play in virtual time: --world virtual"
        )
    from testbed.fabric.probe import probe

    findings = probe(runs, cache_folder(), deep)
    if as_json:
        click.echo(msgspec.json.encode(findings))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for row in findings:
            click.echo(line(row, width))
        click.echo(summary(findings), err=True)
    return EXIT_UNFIT if any(row.status == "missing" for row in findings) else 0


def words(row: "Finding") -> str:
    """What there is to say: a fallback is in use already, a mending command is for the user."""
    if row.fallback:
        return f"{row.detail}; instead: {row.fallback}"
    return f"{row.detail}; to mend: {row.fix}" if row.fix else row.detail


def line(row: "Finding", width: int | None) -> str:
    """One line; on a terminal what does not fit goes on below, under its beginning."""
    status = click.style(f"{row.status:{STATUS_WIDTH}}", fg=COLOURS[row.status])
    head, said = f"{status}{row.name:{NAME_WIDTH}}", words(row)
    if width is None:
        return head + said
    indent = STATUS_WIDTH + NAME_WIDTH
    lines = textwrap.wrap(
        said, max(LEAST_WIDTH, width) - indent, break_long_words=False, break_on_hyphens=False
    )
    return head + ("\n" + " " * indent).join(lines)


def summary(findings: "list[Finding]") -> str:
    """Whether the emulated world runs here, and where to read on."""
    count = {status: sum(row.status == status for row in findings) for status in COLOURS}
    said = ", ".join(f"{number} {status}" for status, number in count.items())
    once = [row.fix for row in findings if row.name == "namespaces" and row.status == "degraded"]
    without_sudo = f"\nTo run without sudo, once: {once[0]}" if once else ""
    if count["missing"]:
        return f"{said}: the emulated world does not run here; --world virtual does"
    return f"{said}: the emulated world runs here{without_sudo}"
