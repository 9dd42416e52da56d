"""Lines of the scheduler's protocol, and what is published of them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scheduler import protocol
from scheduler.policy import Traits
from scheduler.types import (
    Arrived,
    ClusterSpec,
    Decision,
    Ended,
    EngineReport,
    EngineSpec,
    Fetch,
    NodeReport,
    ReadExtent,
    Request,
    Side,
)

DOCS = Path(__file__).parents[2] / "docs"
PUBLISHED = DOCS / "protocol" / f"v{protocol.VERSION}.schema.json"
SPEC = ClusterSpec(
    (EngineSpec("p0/0", Side.PE, "p0", "pe", 9600), EngineSpec("d0/0", Side.DE, "d0", "de", 9600)),
    block_tokens=64,
    alpha_tokens=1000,
    beta_tokens=1000,
    seed=7,
)
LINES = [
    protocol.Hello(protocol.VERSION, SPEC, "dualpath", {"quota_s": 0.3}),
    protocol.Ready(protocol.VERSION, Traits(layerwise=True, quota_s=0.3)),
    Arrived(0.5, Request(1, 2, 3, 640, 576, 10)),
    Fetch(1.0, "pe", (EngineReport("p0/0", 1, 640, 0, 1),), (NodeReport("p0", 0, 1),)),
    Ended(2.0, 1),
    protocol.Decided((Decision(1, 1, "p0/0", "d0/0", (ReadExtent(Side.DE, 0, 9),)),)),
    protocol.Decided(()),
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_says_what_was_meant(line: protocol.Line) -> None:
    written = protocol.encode(line)
    assert written.endswith(b"}\n") and written.count(b"\n") == 1
    assert protocol.decode(written) == line


def test_an_engine_that_reports_what_it_did_last_is_left_out() -> None:
    news = protocol.News()
    busy, idle = EngineReport("p0/0", 1, 640, 0, 1), EngineReport("p0/1", 0, 0, 640, 0)
    queue = NodeReport("p0", 64, 1)

    def said(*engines: EngineReport) -> protocol.Line:
        return news.of(Fetch(1.0, "pe", engines, (queue,)))

    assert said(busy, idle) == Fetch(1.0, "pe", (busy, idle), (queue,))
    assert said(busy, idle) == Fetch(1.0, "pe", (), (queue,))
    later = EngineReport("p0/1", 0, 0, 640, 1)
    assert said(busy, later) == Fetch(1.0, "pe", (later,), (queue,))
    assert said(busy, idle) == Fetch(1.0, "pe", (idle,), (queue,))


def test_other_events_are_said_whole() -> None:
    news = protocol.News()
    for event in (Arrived(0.5, Request(1, 2, 3, 640, 576, 10)), Ended(2.0, 1)):
        assert news.of(event) is event and news.of(event) is event


def test_the_published_schema_is_up_to_date() -> None:
    """After a change: python -m scheduler.protocol > docs/protocol/v1.schema.json"""
    assert json.loads(PUBLISHED.read_text()) == json.loads(json.dumps(protocol.json_schema()))


def blocks(kind: str) -> list[str]:
    page = (DOCS / "protocol.md").read_text()
    return [part.partition("```")[0] for part in page.split(f"```{kind}\n")[1:]]


def test_the_page_shows_every_kind_of_line_and_each_is_one() -> None:
    shown = [json.loads(line) for block in blocks("json") for line in block.splitlines()]
    assert {line["type"] for line in shown} == {
        "hello", "ready", "arrived", "fetch", "ended", "decided",
    }  # fmt: skip
    for line in shown:
        assert protocol.decode(json.dumps(line).encode())
        require_published(line, line["type"].capitalize())


def require_published(value: Any, name: str) -> None:
    """Every key that the page shows is in the published schema, and every one needed is shown."""
    part = json.loads(PUBLISHED.read_text())["$defs"][name]
    assert set(part["required"]) <= set(value) <= set(part["properties"]), name


def test_the_page_shows_the_example_that_is_tested() -> None:
    (program,) = blocks("python")
    assert program == (DOCS / "examples" / "scheduler.py").read_text()
    assert len(program.splitlines()) < 35


@pytest.mark.parametrize("line", [
    b'{"type":"ended","now_s":1,"request_id":1,"reason":"\xff"}',
    b'{"type":"ended","now_s":1,"request_id":1,"more":' + b"[" * 100_000,
])  # fmt: skip
def test_whatever_is_no_line_is_one_kind_of_error(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        protocol.decode(line)
