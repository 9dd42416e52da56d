"""Which changes of a lab's starter are the student's, and how many lines they have."""

import pytest

from testbed.labs.region import region

STARTER = """import this

class Mine(Given):
    # ---- your lines begin here ----
    def side(self):
        return 1
    # ---- your lines end here ----

POLICY = Mine
"""


def changed(before: str, after: str) -> str:
    assert before in STARTER
    return STARTER.replace(before, after)


@pytest.mark.parametrize(("source", "lines"), [
    (STARTER, 2),
    (changed("return 1", "# why\n\n        x = 2\n        return x  # so"), 3),
    (STARTER.replace("\n", "\r\n") + "\n\n", 2),
    (changed("        return 1\n", ""), 1),
    (changed("return 1", "return ("), 2),
])  # fmt: skip
def test_lines_between_the_marks_are_free(source: str, lines: int) -> None:
    found = region(STARTER, source, frozenset({"answer"}))
    assert found.fault == "" and found.lines == lines


@pytest.mark.parametrize(("source", "fault"), [
    (changed("Given", "Other"), "above"),
    (STARTER + "x = 1\n", "below"),
    (changed("your lines begin here", "mine"), "marks"),
    (changed("    # ---- your lines end here ----\n", ""), "marks"),
    (STARTER + "# your lines begin here\n", "marks"),
    (changed("return 1", "return answer()"), "`answer`"),
    (changed("return 1", "return given.answer()"), "`answer`"),
    ("", "marks"),
])  # fmt: skip
def test_anything_else_is_a_fault(source: str, fault: str) -> None:
    assert fault in region(STARTER, source, frozenset({"answer"})).fault
