"""`testbed doctor`: try, not guess, everything that the emulated world needs of a machine."""

import click
import msgspec
from rich.console import Console
from rich.table import Table

from testbed.worlds.emulated import require_packages

EXIT_UNFIT = 4
STYLES = {"ok": "green", "degraded": "yellow", "missing": "red"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
def command(as_json: bool) -> int:
    """Try each primitive in a throw-away private namespace; exit 4 if one is missing."""
    require_packages()
    from testbed.fabric.probe import probe

    findings = probe()
    if as_json:
        click.echo(msgspec.json.encode(findings))
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for row in findings:
            fix = f"fix: {row.fix}" if row.fix else ""
            table.add_row(f"[{STYLES[row.status]}]{row.status}[/]", row.name, row.detail, fix)
        Console().print(table)
    return EXIT_UNFIT if any(row.status == "missing" for row in findings) else 0
