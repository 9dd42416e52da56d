"""What commands write to standard output for other programs."""

import sys

import msgspec


def print_json(found: object) -> None:
    """A result as JSON, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
