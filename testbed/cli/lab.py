"""`testbed lab`: a lab to start, to check, and to hand in. In virtual time, on any system."""

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from testbed.errors import InputError
from testbed.labs import folder as folders
from testbed.labs.catalogue import LABS, find_lab
from testbed.labs.check import LIMIT_S, as_json, check_folder
from testbed.labs.report import class_table, report, unanswered
from testbed.labs.result import Result
from testbed.labs.show import STAGES, render

FOLDER = click.argument("folder", type=click.Path(path_type=Path), default=Path())
LIMIT = click.option(
    "--limit", type=click.FloatRange(1, 3600), default=LIMIT_S, show_default=True,
    help="Seconds after which one of its runs is given up; each takes about one.",
)  # fmt: skip


@click.group("lab")
def command() -> None:
    """Labs for students: start one, check it, and hand in a report."""


@command.command("list")
@click.option("--json", "json", is_flag=True, help="Print JSON.")
def list_labs(json: bool) -> None:
    """Every lab, with what it takes."""
    fields = ("name", "question", "difficulty", "minutes", "version")
    found = [{field: getattr(lab, field) for field in fields} for lab in LABS.values()]
    if json:
        click.echo(msgspec.json.encode(found).decode())
        return
    for lab in LABS.values():
        click.echo(f"{lab.name}  {lab.question}  ({lab.difficulty}, {lab.minutes} minutes)")


@command.command("start")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--student", default="", metavar="ID", help="Draws the numbers of the lab.")
def start(name: str, folder: Path | None, student: str) -> None:
    """Make FOLDER (by default named as the lab) with all that lab NAME needs."""
    lab = find_lab(name)
    path = folder or Path(lab.name)
    made = folders.start(lab, path, student)
    click.echo(f"{path} has {', '.join(made)}")
    click.echo(f"Next: cd {path}; read {folders.PAGE}; then run: testbed lab check", err=True)


@command.command("check")
@FOLDER
@click.option(
    "--hints", type=click.IntRange(0, STAGES), default=1, show_default=True,
    help="How much of the first hint to show.",
)  # fmt: skip
@click.option("--class", "whole_class", is_flag=True, help="FOLDER holds a folder a student: CSV.")
@click.option("--json", "json", is_flag=True, help="The result as JSON, for grading.")
@LIMIT
def check(folder: Path, hints: int, whole_class: bool, json: bool, limit: float) -> int:
    """Play the starter.py of FOLDER in virtual time, and assert; 0 if all passes, 1 if not."""
    if whole_class and json:
        raise InputError("--class prints CSV, and --json one folder; leave one of them out")
    if whole_class:
        for line in class_table(folder, limit):
            click.echo(line, nl=False)
        return 0
    opened = folders.open_folder(folder)
    result = _checked(opened, limit)
    if json:
        sys.stdout.write(as_json(result))
    else:
        Console().print(render(result, opened.lab.plot(result), hints), highlight=False)
    return 0 if result.passed else 1


@command.command("report")
@FOLDER
@LIMIT
def make_report(folder: Path, limit: float) -> None:
    """Write report.md, the one file to hand in: answers, checks, plot, code."""
    opened = folders.open_folder(folder)
    result = _checked(opened, limit)
    path = folder / folders.REPORT
    try:
        path.write_text(report(opened, result), "utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    click.echo(path)
    said = f"{result.points} of {result.most_points} points"
    if unanswered(opened):
        said += f"; {folders.ANSWERS} has no answers yet: write them, and make the report again"
    click.echo(said, err=True)


def _checked(opened: folders.LabFolder, limit: float) -> Result:
    with Console(stderr=True).status("playing in virtual time; some seconds"):
        return check_folder(opened, limit)
