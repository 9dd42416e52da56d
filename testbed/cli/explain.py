"""`testbed explain`: why a request of a finished run went where it went."""

from pathlib import Path

import click
from rich.console import Console

from testbed.cli.output import print_json
from testbed.errors import InputError
from testbed.explain import explain, wanted
from testbed.results import differing_page, explain_page
from testbed.results.differing import differing
from testbed.results.runs import find_run, policy_folder

MOST_TURNS = 20


@click.command("explain")
@click.argument("run")
@click.argument("request", required=False)
@click.option("--policy", help="Whose decision.  [default: the policy that was played last]")
@click.option(
    "--differing", "pair", metavar="A,B",
    help="Instead of one request: those that two policies of the run placed differently.",
)  # fmt: skip
@click.option(
    "--top", type=click.IntRange(0), default=MOST_TURNS, show_default=True,
    help="With --differing: how many requests are listed.",
)  # fmt: skip
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Folder of results.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The explanation as JSON.")
def command(
    run: str,
    request: str | None,
    policy: str | None,
    pair: str | None,
    top: int,
    runs: Path,
    as_json: bool,
) -> None:
    """Show what the scheduler saw when it placed REQUEST of RUN, and who else it could take.

    RUN is a folder, as runs/2p4d-3, or a name: its newest run. REQUEST is a number, or an agent
    and its turn, as 17.2. The run's events are decided once more; the run itself paid nothing.
    """
    if pair is not None:
        if request is not None or policy is not None:
            raise InputError("--differing is of all requests of two policies; name no other")
        first, second = _two(pair)
        folder = find_run(run, runs)
        found = differing(policy_folder(folder, first), policy_folder(folder, second), top)
        return print_json(found) if as_json else differing_page.show(found, Console())
    if request is None:
        raise InputError("which request? Give its number, as 17, or its agent and turn, as 5.2")
    wanted(request)
    why = explain(policy_folder(find_run(run, runs), policy), request)
    return print_json(why) if as_json else explain_page.show(why, Console())


def _two(pair: str) -> tuple[str, str]:
    names = [name.strip() for name in pair.split(",")]
    if len(names) != 2 or len(set(names)) < 2:
        raise InputError(f"--differing {pair}: name two policies, as basic,dualpath")
    return names[0], names[1]
