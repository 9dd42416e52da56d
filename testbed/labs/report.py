"""What a student hands in, one file; and the points of a class, one table."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from testbed.errors import InputError
from testbed.labs.check import check_folder
from testbed.labs.folder import ANSWERS, LabFolder, open_folder, packaged
from testbed.labs.player import STARTER
from testbed.labs.result import Result
from testbed.labs.show import plain

COLUMNS = (
    "folder", "student", "lab", "version", "passed", "points", "most_points", "failed",
    "code_sha256", "same_code_as", "error",
)  # fmt: skip


def unanswered(folder: LabFolder) -> bool:
    """Whether the student wrote anything below the questions."""
    return folder.text(ANSWERS).split() == packaged(folder.lab, ANSWERS).split()


def report(folder: LabFolder, result: Result) -> str:
    """Points, answers, plot, numbers, code and experiment, as Markdown."""
    code = folder.text(STARTER)
    parts = [
        f"# Lab {result.lab}: {folder.lab.question}",
        f"Student: {result.student or 'none'} · points: {result.points} of {result.most_points} · "
        f"version {result.lab_version}\n\nSHA-256 of {STARTER}: `{result.code_sha256}`",
        "## Answers",
        folder.text(ANSWERS).strip(),
        "## Checks",
        _checks(result),
        "## Plot",
        _fenced(plain(folder.lab.plot(result)), "text"),
        "## Code",
        _fenced(code, "python"),
        "## Experiment",
        _fenced(folder.lab.experiment(result.student), "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _checks(result: Result) -> str:
    lines = ["| check | passed | points | measured | expected |", "|---|---|---|---|---|"]
    lines += [
        f"| {check.title} | {'yes' if check.passed else 'no'} | "
        f"{check.points} of {check.most_points} | {_cell(check.measured)} | {check.expected} |"
        for check in result.checks
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _fenced(text: str, language: str) -> str:
    """In a fence that the text cannot close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def class_table(root: Path, limit_s: float) -> Iterator[str]:
    """Lines of CSV, a folder each; one that cannot be checked has its reason in `error`."""
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not folders:
        raise InputError(f"--class {root}: has no folders; name one that holds a folder a student")
    first_with: dict[str, str] = {}
    yield _row(COLUMNS)
    for path in folders:
        row = {"folder": path.name}
        try:
            result = check_folder(open_folder(path), limit_s)
        except InputError as error:
            row["error"] = str(error)
        else:
            row |= _points(result)
            first = first_with.setdefault(result.code_sha256, path.name)
            row["same_code_as"] = "" if first == path.name else first
        yield _row([row.get(column, "") for column in COLUMNS])


def _points(result: Result) -> dict[str, str]:
    return {
        "student": result.student,
        "lab": result.lab,
        "version": str(result.lab_version),
        "passed": "yes" if result.passed else "no",
        "points": str(result.points),
        "most_points": str(result.most_points),
        "failed": " ".join(check.id for check in result.checks if not check.passed),
        "code_sha256": result.code_sha256,
    }


def _row(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
