"""A check on a terminal: its plot, its assertions, and one hint at a time."""

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from testbed.labs.result import Check, Result

STAGES = 3
PRINTED_LINES = 10
COLUMNS = 80  # a report's


def render(result: Result, plot: RenderableType, stages: int) -> RenderableType:
    """The whole of it, with so many stages of the first hint that applies."""
    parts = [_head(result), Text(), plot, Text(), _table(result.checks), *_help(result, stages)]
    if result.printed:
        lines = result.printed.splitlines()
        more = ["..."] if len(lines) > PRINTED_LINES else []
        printed = Text("\n".join([*lines[:PRINTED_LINES], *more]))
        parts += [Text("\nYour code printed:"), Padding(printed, (0, 0, 0, 2))]
    return Group(*parts)


def plain(content: RenderableType) -> str:
    """Without colours, as wide as a report."""
    console = Console(width=COLUMNS, file=io.StringIO(), color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(content)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _head(result: Result) -> Text:
    student = f" · student {result.student}" if result.student else ""
    style = "bold green" if result.passed else "bold red"
    return Text.assemble(
        (f"lab {result.lab}{student} · ", "bold"),
        (f"{result.points} of {result.most_points} points", style),
    )


def _table(checks: Sequence[Check]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("check")
    table.add_column("points", justify="right", no_wrap=True)
    table.add_column("measured")
    table.add_column("expected")
    for check in checks:
        table.add_row(
            Text.assemble(("ok   ", "green") if check.passed else ("FAIL ", "red"), check.title),
            f"{check.points}/{check.most_points}", check.measured, check.expected,
        )  # fmt: skip
    return table


def _help(result: Result, stages: int) -> list[RenderableType]:
    """The hint of the first check that failed: the others often fail for the same reason."""
    failed = next((check for check in result.checks if check.hint is not None), None)
    if failed is None or failed.hint is None:
        return [Text("\nAll passed. Next: answers.md, then `testbed lab report`.")]
    lines: list[RenderableType] = [Text(f"\nHint for the first that failed, “{failed.title}”:")]
    for number, stage in enumerate(failed.hint.stages[:stages], start=1):
        lines.append(Padding(Text(f"{number}. {stage}"), (0, 0, 0, 2)))
    if stages < STAGES:
        lines.append(Text(f"For more of it: testbed lab check --hints {stages + 1}"))
    return lines
