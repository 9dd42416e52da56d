"""JSON of files that somebody may have damaged."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode(raw: bytes, kind: type[T]) -> T:
    """As `msgspec.json.decode`: text that is no UTF-8, or nested too deep, is a DecodeError too."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
