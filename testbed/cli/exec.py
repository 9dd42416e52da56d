"""`testbed exec`: a program of yours in a host of a live cluster."""

import os
import sys
from pathlib import Path

import click

from testbed.cli.clusters import cluster_option
from testbed.clusters.client import Cluster
from testbed.fabric.enter import enter_command


@click.command("exec", context_settings={"ignore_unknown_options": True})
@cluster_option
@click.argument("host")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def command(cluster: str | None, host: str, program: tuple[str, ...]) -> None:
    """Run PROGRAM in HOST, with this terminal and folder: testbed exec pe0-buf -- iperf3 -s.

    Its exit code is this command's; 127 if there is no such program.
    """
    namespaces = Cluster(cluster).enter(host)
    for fd in namespaces:
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    argv = enter_command(namespaces, program, Path.cwd())
    os.execv(argv[0], argv)
