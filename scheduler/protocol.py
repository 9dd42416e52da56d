"""A scheduler's events and decisions as lines of JSON, in target units; times are in the events.

One exchange: `Hello` says what does not change, `Ready` what the scheduler asks of the engines.
Then each event is answered by exactly one `Decided`. A `Fetch` carries the reports that changed: a
report that is not there is unchanged. A recorded run is the same lines in the same order, without
the answers that decide nothing.
"""

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
    NodeReport,
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
    said: Line = _decoder.decode(line)
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
    """Leaves out of each fetch the reports that say what they said last; most of them do."""

    def __init__(self) -> None:
        self._engines: dict[str, EngineReport] = {}
        self._nodes: dict[str, NodeReport] = {}

    def of(self, event: Event) -> Event:
        """The event as its line says it."""
        if not isinstance(event, Fetch):
            return event
        engines, nodes = self._engines, self._nodes
        news = Fetch(
            event.now_s,
            event.group,
            tuple(said for said in event.engines if engines.get(said.engine) != said),
            tuple(said for said in event.nodes if nodes.get(said.node) != said),
        )
        engines.update((said.engine, said) for said in news.engines)
        nodes.update((said.node, said) for said in news.nodes)
        return news
