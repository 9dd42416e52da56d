"""`testbed compare`: one experiment under several policies, side by side."""

import os
from pathlib import Path

import click
from rich.console import Console

from scheduler.lookup import names
from testbed.cli.options import Asked, experiment_options, play_and_tell
from testbed.cli.schedulers import scheduler_options, scheduler_word
from testbed.cli.seeds import compare_over_seeds
from testbed.errors import InputError
from testbed.results import differing_page
from testbed.results.differing import differing as differing_turns
from testbed.results.runs import policy_folders
from testbed.results.schema import Comparison
from testbed.worlds.plan import LOOPBACK


@click.command("compare")
@experiment_options(require="timing")
@click.option(
    "--policies", default="basic,dualpath", show_default=True,
    help="Names or my_policy.py:MyPolicy, by commas; speed-ups are over the first. Names are "
    f"{', '.join(names())}.",
)  # fmt: skip
@click.option(
    "--seeds", metavar="N or LIST",
    help="Play on N seeds, or on those of a list, and print 95 % intervals of the speed-ups.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(1, 256), default=os.cpu_count() or 1, show_default=True,
    help="With --seeds in the virtual world: runs played at a time.",
)  # fmt: skip
@click.option(
    "--differing", type=click.IntRange(1), metavar="N",
    help="Also list N turns that were placed differently than under the first policy.",
)  # fmt: skip
@scheduler_options
@click.option("--fresh", is_flag=True, help="Play all anew, also what finished runs would repeat.")
def command(
    asked: Asked,
    policies: str,
    seeds: str | None,
    processes: int,
    differing: int | None,
    scheduler_cmd: str | None,
    scheduler: str | None,
    fresh: bool,
) -> int:
    """Play EXPERIMENT under each policy and say who wins, by how much, and why.

    A policy is played once for the same experiment, seed, world and code: what is unchanged since
    a run in RUNS is taken from there, and said to be.
    """
    words = [word.strip() for word in policies.split(",") if word.strip()]
    process = scheduler_word(scheduler_cmd, scheduler)
    if differing is not None and (seeds is not None or asked.as_json):
        other = "--seeds" if seeds is not None else "--json"
        raise InputError(
            f"--differing does not go with {other}; list them afterwards, with "
            "testbed explain RUN --differing A,B"
        )
    if seeds is not None:
        if asked.seed is not None and "," in seeds:
            raise InputError(f"--seed says nothing beside --seeds {seeds}; leave it out")
        if asked.fabric == LOOPBACK:
            raise InputError(
                "--seeds tells speed-ups, which loopback cannot: its links are not shaped; "
                "leave one of them out, or play in virtual time: --world virtual"
            )
        if process is not None:
            raise InputError(
                "--seeds is for policies; a scheduler in another process is compared on one --seed"
            )
        return compare_over_seeds(asked, words, seeds, processes)
    return play_and_tell(
        asked, words, process, fresh, lambda comparison: _list_differing(comparison, differing)
    )


def _list_differing(comparison: Comparison, most: int | None) -> None:
    if most is None:
        return
    first, *others = policy_folders(Path(comparison.folder)).values()
    for other in others:
        click.echo()
        differing_page.show(differing_turns(first, other, most), Console())
