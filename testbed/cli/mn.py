"""`testbed mn`: stock Mininet, unmodified, in private namespaces."""

import click

from testbed.worlds.emulated import require_packages


@click.command("mn", context_settings={"ignore_unknown_options": True})
@click.option("--shell", is_flag=True, help="A shell in the namespaces instead; run mn in it.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS OF MN...]")
def command(shell: bool, args: tuple[str, ...]) -> int:
    """Run stock Mininet's mn in private namespaces; missing programs get stand-ins, by name.

    For example: testbed mn -- --custom topologies/dualpath.py --topo dualpath,1,2
    """
    require_packages()
    from testbed.fabric.stock_mn import run_stock

    return run_stock(args, shell)
