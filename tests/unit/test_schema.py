"""The published schema is the one that the code has."""

import json
from pathlib import Path

from testbed.results.schema import json_schema

PUBLISHED = Path(__file__).parents[2] / "docs" / "compare.schema.json"


def test_the_published_schema_is_up_to_date() -> None:
    """After a change: python -m testbed.results.schema > docs/compare.schema.json"""
    assert json.loads(PUBLISHED.read_text()) == json_schema()


def test_it_names_what_people_build_on() -> None:
    parts = json_schema()["$defs"]
    assert {"verdict", "policies", "speedup", "world"} <= set(parts["Comparison"]["properties"])
    assert {"functional", "timing", "causes"} == set(parts["Verdict"]["properties"])
    assert {"turns_per_s", "binds", "terms"} == set(parts["Bound"]["properties"])
