"""`testbed exec`: a program of yours in a host of a live cluster."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from testbed.cli.clusters import cluster_option
from testbed.clusters.client import Cluster
from testbed.fabric.enter import Manner, enter_command


@click.command("exec", context_settings={"ignore_unknown_options": True})
@cluster_option
@click.argument("host")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def command(cluster: str | None, host: str, program: tuple[str, ...]) -> None:
    """Run PROGRAM in HOST, with this terminal and folder: testbed exec pe0-buf -- iperf3 -s.

    HOST `lab` has the switches and their ports. The program's exit code is this command's; it is
    127 if there is no such program, and 126 if it cannot be run.
    """
    become(Cluster(cluster), host, program)


def become(live: Cluster, host: str, program: Sequence[str]) -> NoReturn:
    """Replace this process by a program in a host."""
    namespaces = live.enter(host)
    for fd in namespaces:
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    argv = enter_command(namespaces, program, Path.cwd(), Manner.JOB)
    os.execv(argv[0], argv)
