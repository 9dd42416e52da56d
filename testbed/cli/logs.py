"""`testbed logs`: what a live cluster and the hosts of its run wrote."""

import time
from pathlib import Path

import click

from testbed.cli.clusters import named, one_name
from testbed.clusters import names
from testbed.clusters.client import Cluster
from testbed.clusters.protocol import LAB
from testbed.errors import InputError
from testbed.yamlfile import nearest

LOOK_S = 0.2  # between looks at a log that is followed


@click.command("logs")
@named
@click.option("--host", help="Of this host alone; `lab` is the cluster's own.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the cluster ends.")
@click.option("-n", "--lines", type=click.IntRange(0), default=20, show_default=True)
def command(
    name: str | None, cluster: str | None, host: str | None, follow: bool, lines: int
) -> None:
    """Print the last lines of each log of the cluster NAME."""
    live = Cluster(one_name(name, cluster))
    folder = Path(live.look().about.folder)
    files = _files(folder)
    if host is not None:
        if host not in files:
            raise InputError(f"no log of {host!r}; {nearest(host, list(files), 'log')}")
        files = {host: files[host]}
    at = {}
    for title, path in files.items():
        text = path.read_text(errors="replace")
        at[title] = len(text.encode(errors="replace"))
        for line in text.splitlines()[-lines:] if lines else ():
            click.echo(f"{title}: {line}")
    if not any(at.values()):
        whose = "" if host is None else f" by {host}"
        click.echo(f"nothing was written yet{whose}; logs of {live.name} are in {folder}", err=True)
    while follow and live.name in names.live():
        for title, path in files.items():
            at[title] += _print_from(title, path, at[title])
        time.sleep(LOOK_S)


def _files(folder: Path) -> dict[str, Path]:
    found = {LAB: folder / "lab.log"} if (folder / "lab.log").exists() else {}
    for path in sorted((folder / "logs").glob("*.log")):
        found[path.stem] = path
    return found


def _print_from(title: str, path: Path, offset: int) -> int:
    """Print whole lines that were added; returns how many bytes they have."""
    with path.open("rb") as log:
        log.seek(offset)
        added = log.read()
    whole = added[: added.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        click.echo(f"{title}: {line}")
    return len(whole)
