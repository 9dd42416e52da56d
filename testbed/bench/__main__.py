"""`scripts/bench`: plays cases, checks the claims, and ends with 1 if one does not hold."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from testbed.bench import (
    emulated,
    fabric,
    fabric_nixl,
    interval,
    isolation,
    paper,
    parity,
    scale,
    scheduler,
)
from testbed.bench.table import Bench, Case

FAMILIES = (emulated, isolation, parity, interval, paper, scale)
CASES: dict[str, Case] = {case: words for f in FAMILIES for case, words in f.CASES.items()}
GROUPS = (interval.GROUP, parity.GROUP, scale.GROUP)
LONG = (parity.GROUP, scale.GROUP)  # only when asked for
SCHEDULER = "scheduler"  # no run of the command: bench/scheduler.py hands events to it
FABRIC = "fabric"  # no run of the command: links and transport alone


def play(case: str, runs: Path) -> Any:
    """One case's result; its progress goes to standard error."""
    command = [sys.executable, "-m", "testbed.cli.main", *CASES[case], "--json",
               *(["--fresh"] if CASES[case][0] == "compare" else []),
               "--runs", str(runs)]  # fmt: skip
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if not ended.stdout:
        raise click.ClickException(f"case {case} gave no result (exit code {ended.returncode})")
    return json.loads(ended.stdout)


def _right(bench: Bench) -> None:
    for case, result in bench.results.items():
        for name, policy in result["policies"].items():
            right = policy["tokens_equal"] == policy["tokens_checked"] > 0
            share = policy["tokens_equal"] / max(1, policy["tokens_checked"])
            bench.claim(f"{case}, {name}: right of {policy['tokens_checked']} tokens", share,
                        "1", right)  # fmt: skip


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice([*CASES, *GROUPS, SCHEDULER, FABRIC]))
@click.option("--json", "as_json", is_flag=True, help="Claims as JSON.")
@click.option("--with-nixl", is_flag=True, help="Install NIXL to be measured beside `fabric`.")
def main(cases: tuple[str, ...], as_json: bool, with_nixl: bool) -> None:
    """Measure CASES and check the claims; by default half an hour of them.

    Not among these: `scale` is large clusters in virtual time, `parity` every policy in both
    worlds, up to an hour each.
    `paper` is the 660B experiment beside the paper's figures, in virtual time.
    `fabric` is links, transport and isolation beside iperf3, NIXL and Mininet: four minutes.
    """
    chosen = [case for case in cases or CASES if case not in (*GROUPS, SCHEDULER, FABRIC)]
    if not cases:
        chosen = [case for case in chosen if not case.startswith(tuple(f"{g}-" for g in LONG))]
    for group in set(cases).intersection(GROUPS):
        chosen += [case for case in CASES if case.startswith(f"{group}-")]
    results = {}
    with tempfile.TemporaryDirectory(prefix="dualpath-bench-") as runs:
        for case in dict.fromkeys(chosen):
            click.echo(f"bench: {case}", err=True)
            results[case] = play(case, Path(runs))
    bench = Bench(results)
    for family in FAMILIES:
        family.claims(bench)
    _right(bench)
    if not cases or SCHEDULER in cases:
        click.echo(f"bench: {SCHEDULER}", err=True)
        scheduler.claims(bench)
    if FABRIC in cases:
        if with_nixl:
            fabric_nixl.install()
        fabric.claims(bench, lambda what: click.echo(f"bench: {FABRIC}: {what}", err=True))
    if as_json:
        click.echo(json.dumps([list(row) for row in bench.rows]))
    else:
        table = Table("claim", "measured", "wanted", "", box=None)
        for what, value, wanted, holds in bench.rows:
            table.add_row(what, value, wanted, {True: "ok", False: "short", None: ""}[holds])
        Console().print(table)
    sys.exit(any(holds is False for *_, holds in bench.rows))


if __name__ == "__main__":
    main()
