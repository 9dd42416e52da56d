"""What of a starter a student changed: only lines between its two marks count as theirs."""

import ast
from typing import NamedTuple

BEGIN, END = "your lines begin here", "your lines end here"


class Region(NamedTuple):
    """`lines` of code between the marks; `fault` says what was changed that may not be."""

    lines: int
    fault: str


def region(starter: str, source: str, forbidden: frozenset[str]) -> Region:
    """The student's lines; comments and blank ones are free, `forbidden` names are not."""
    given, found = _parts(starter), _parts(source)
    assert given is not None
    if found is None:
        return Region(0, "one of the two marks around your lines is gone")
    lines = sum(bool(line) and not line.startswith("#") for line in found[1])
    for part, where in ((0, "above"), (2, "below")):
        if given[part] != found[part]:
            return Region(lines, f"the file has changed {where} your lines")
    for name in _names(source):
        if name in forbidden:
            return Region(lines, f"your lines use `{name}`, which this lab asks you to write")
    return Region(lines, "")


def _parts(text: str) -> tuple[list[str], list[str], list[str]] | None:
    """Stripped lines above, between and below the marks."""
    lines = [line.strip() for line in text.splitlines()]
    begins = [number for number, line in enumerate(lines) if BEGIN in line]
    ends = [number for number, line in enumerate(lines) if END in line]
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        return None
    above, below = lines[: begins[0] + 1], lines[ends[0] :]
    return [*filter(None, above)], lines[begins[0] + 1 : ends[0]], [*filter(None, below)]


def _names(source: str) -> list[str]:
    """Every name and attribute that the code uses; none if it is no code."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []  # the check of the run says so, with the line
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
    return found
