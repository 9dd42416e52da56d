"""A scheduler's events and decisions as lines of JSON, in target units; times are in the events.

One exchange: `Hello` says what does not change, `Ready` what the scheduler asks of the engines.
Then each event is answered by exactly one `Decided`. A `Fetch` carries the reports of engines that
changed: an engine that is not there holds what it held. A recorded run is the same lines in the
same order, without the answers that decide nothing.
"""

import json
from inspect import cleandoc
from typing import Any

import msgspec

from scheduler.policy import Traits
from scheduler.types import (
    Arrived,
    ClusterSpec,
    Decision,
    Ended,
    EngineReport,
    Event,
    Fetch,
)

VERSION = 1


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The cluster; `policy` and `knobs` are the experiment's words, for whoever wants them."""

    version: int
    cluster: ClusterSpec
    policy: str
    knobs: dict[str, float]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The scheduler's version of the protocol, and what it asks of the engines."""

    version: int
    traits: Traits


class Decided(msgspec.Struct, frozen=True, tag="decided"):
    """What one event decided, in order; mostly nothing."""

    decisions: tuple[Decision, ...]


Line = Hello | Ready | Arrived | Fetch | Ended | Decided

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


def encode(line: Line) -> bytes:
    """One line, its newline included."""
    return _encoder.encode(line) + b"\n"


def decode(line: bytes) -> Line:
    """The object of one line; raises msgspec.MsgspecError with the place of what is wrong."""
    try:
        said: Line = _decoder.decode(line)
    except (UnicodeDecodeError, RecursionError) as error:  # no UTF-8, or nested too deep
        raise msgspec.DecodeError(str(error)) from error
    return said


def words(line: Line) -> str:
    """What a line says, short enough for a message."""
    match line:
        case Arrived():
            return f"request {line.request.id} arrives at {line.now_s:g} s"
        case Fetch():
            return f"{line.group} fetches at {line.now_s:g} s"
        case Ended():
            return f"request {line.request_id} ends at {line.now_s:g} s"
        case _:
            return type(line).__name__.lower()


class News:
    """Leaves out of each fetch the engines that report what they did last; most of them do."""

    def __init__(self) -> None:
        self._last: dict[str, EngineReport] = {}

    def of(self, event: Event) -> Event:
        """The event as its line says it."""
        if not isinstance(event, Fetch):
            return event
        last = self._last
        engines = [said for said in event.engines if last.get(said.engine) != said]
        for said in engines:
            last[said.engine] = said
        return Fetch(event.now_s, event.group, tuple(engines), event.nodes)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of one line; a copy of it is `docs/protocol/v1.schema.json`."""
    schema = msgspec.json.schema(Line)
    for part in schema["$defs"].values():
        if "description" in part:  # a docstring, indented or not as this Python has it
            part["description"] = cleandoc(part["description"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"a line of the scheduler's protocol, version {VERSION}",
        **schema,
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
