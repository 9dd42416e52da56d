"""What a check of a lab gives; `docs/labs/check.schema.json` is its JSON Schema."""

import json
from typing import Any

import msgspec

from testbed.labs.player import Outcome

SCHEMA = 1


class Hint(msgspec.Struct, frozen=True):
    """Help for a failed check, in three stages: what you see, where to look, which book has it.

    `cause` names what the run shows the code to do, for whoever counts wrong answers.
    """

    cause: str
    stages: tuple[str, ...]


class Check(msgspec.Struct, frozen=True):
    """One assertion. Numbers stand in `measured` and `expected` as they are shown."""

    id: str
    title: str
    passed: bool
    points: int
    most_points: int
    measured: str
    expected: str
    hint: Hint | None = None


class Result(msgspec.Struct, frozen=True):
    """A check of one folder; the same code and the same student give the same bytes.

    `code_sha256` is the digest of the student's file, `mine` and `reference` the runs by variation,
    and `printed` the beginning of what the code printed.
    """

    schema: int
    lab: str
    lab_version: int
    student: str
    code_sha256: str
    code_lines: int
    passed: bool
    points: int
    most_points: int
    checks: tuple[Check, ...]
    mine: dict[str, Outcome]
    reference: dict[str, Outcome]
    printed: str


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `lab check --json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "testbed lab check --json",
        **msgspec.json.schema(Result),
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
