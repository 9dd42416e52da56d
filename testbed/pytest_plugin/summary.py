"""The step summary: a row for each test that used a network or a cluster, in Markdown."""

from pathlib import Path

import pytest

EXPERIMENT, KEPT, CAUSE = "testbed experiment", "kept in", "cause"  # JUnit properties
VERDICT = "verdict of "
HEAD = ["", "| test | outcome | verdict | causes | kept in |", "|---|---|---|---|---|"]


class StepSummary:
    """Gathers tests' reports where pytest's own process gets them, also under xdist."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._failed: set[str] = set()
        self._skipped: set[str] = set()
        self._rows: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how a phase ended; the last one has the properties of all."""
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.skipped:
            self._skipped.add(report.nodeid)
        told = [(str(name), str(value)) for name, value in report.user_properties]
        if report.when == "teardown" and any(name == EXPERIMENT for name, _ in told):
            self._rows.append(self._row(report.nodeid, told))

    def _row(self, test: str, told: list[tuple[str, str]]) -> str:
        outcome = "failed" if test in self._failed else "passed"
        if outcome == "passed" and test in self._skipped:
            outcome = "skipped"
        verdicts = [
            f"{name.removeprefix(VERDICT)}: {value}"
            for name, value in told
            if name.startswith(VERDICT)
        ]
        causes = [value for name, value in told if name == CAUSE]
        kept = [f"`{_cell(value)}`" for name, value in told if name == KEPT]
        cells = [_cell("; ".join(verdicts)), _cell("; ".join(causes)), *(kept or [""])]
        return f"| `{_cell(test)}` | {outcome} | {' | '.join(cells)} |"

    def pytest_sessionfinish(self) -> None:
        """Append the table."""
        if self._rows:
            with self._target.open("a", encoding="utf-8") as summary:
                summary.write("\n".join([*HEAD, *self._rows]) + "\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
