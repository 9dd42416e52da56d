"""Progress: on a terminal only, with turns as soon as they are known, each bar on its own clock."""

import io

from rich.console import Console

from testbed.cli.progress import Bars


def told(terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    with Bars(["basic", "dualpath"], console) as bars:
        bars.tell("basic", "network", 0, 0)
        bars.tell("basic", "running", 0, 0)
        bars.tell("basic", "running", 3, 10)
        bars._progress.refresh()
        bars.tell("basic", "running", 10, 10)
        bars.tell("dualpath", "checking", 10, 10)
    return out.getvalue()


def test_on_a_terminal_bars_move_before_and_after_the_total_is_known() -> None:
    words = told(terminal=True)
    assert "dualpath: waiting" in words
    assert "3/10 turns" in words and "basic: done" in words and "dualpath: done" in words
    assert "None" not in words


def test_elsewhere_nothing_is_printed() -> None:
    assert told(terminal=False).strip() == ""
