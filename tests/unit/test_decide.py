"""Recorded events for any scheduler: the same decisions from the same one, its own from another."""

import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest
from test_protocol import SPEC

from scheduler import protocol
from scheduler.lookup import lookup
from scheduler.policy import Traits
from scheduler.protocol import Decided, Hello, Line, Ready
from scheduler.scheduler import Scheduler
from scheduler.types import (
    Arrived,
    Decision,
    Ended,
    EngineReport,
    Event,
    Fetch,
    NodeReport,
    Request,
)
from testbed.cli.main import main
from testbed.decide import replay
from testbed.errors import InputError, RunFailed
from testbed.external.serve import serve

HELLO = Hello(protocol.VERSION, SPEC, "basic", {"quota_s": 0.3, "max_tokens": 512, "read_ahead": 8})
READY = Ready(protocol.VERSION, Traits(layerwise=False))
EVENTS: list[Event] = [
    Arrived(0.5, Request(1, 0, 0, 640, 576, 10)),
    Arrived(0.6, Request(2, 1, 0, 640, 0, 10)),
    Fetch(1.0, "pe", (EngineReport("p0/0", 1, 640, 8000, 1),), (NodeReport("p0", 0, 1),)),
    Fetch(1.0, "de", (EngineReport("d0/0", 2, 1300, 8000, 2),), ()),
    Ended(2.0, 1),
]


def recorded(policy: str) -> list[Line]:
    """The lines of a run of EVENTS, its opening left out."""
    scheduler = Scheduler(SPEC, lookup(policy))
    lines: list[Line] = []
    for event in EVENTS:
        lines.append(event)
        if decisions := scheduler.handle(event):
            lines.append(Decided(tuple(decisions)))
    return lines


def log(path: Path, *lines: Line) -> str:
    path.write_bytes(b"".join(protocol.encode(line) for line in lines))
    return str(path)


class Told:
    """Decides so many things an event, and keeps what it was told."""

    def __init__(self, *many: int) -> None:
        self.told: list[Event] = []
        self._many = list(many)
        self._seq = 0

    def handle(self, event: Event) -> Sequence[Decision]:
        self.told.append(event)
        made = []
        for _ in range(self._many.pop(0)):
            self._seq += 1
            made.append(Decision(self._seq, 1, "p0/0", "d0/0", ()))
        return made


def test_the_same_scheduler_is_told_the_same() -> None:
    lines = recorded("basic")
    told = Told(1, 1, 0, 0, 0)
    steps = list(replay([HELLO, READY, *lines], lambda _: told))
    assert told.told == EVENTS
    assert [step.line for step in steps] == [3, 5, 7, 8, 9]
    assert [len(step.recorded) for step in steps] == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("many", "seen"),
    [
        ((1, 1, 0), [1, 1, 2]),  # as recorded
        ((0, 0, 2), [0, 0, 0]),  # later than recorded: its reports lack them
        ((0, 2, 0), [0, 0, 1]),  # the second of two had nothing beside it
        ((3, 1, 0), [1, 1, 4]),  # more than recorded: the first goes with the first
    ],
)
def test_reports_have_seen_what_was_made_by_then(many: tuple[int, ...], seen: list[int]) -> None:
    told = Told(*many, 0, 0)
    list(replay([HELLO, READY, *recorded("basic")], lambda _: told))
    pe, de = told.told[2], told.told[3]
    assert isinstance(pe, Fetch) and isinstance(de, Fetch)
    assert [pe.engines[0].seen, pe.nodes[0].seen, de.engines[0].seen] == seen


def test_the_recorded_policy_decides_as_recorded(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    lines = recorded("basic")
    path = log(tmp_path / "log", HELLO, READY, *lines)
    assert main(["decide", "--replay", path, "--check"]) == 0
    said = capsysbinary.readouterr()
    assert said.out == b"".join(protocol.encode(x) for x in lines if isinstance(x, Decided))
    assert said.err == b"5 events, 2 decisions, all as recorded\n"


def test_a_restart_begins_with_another_hello_and_forgets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    term = [HELLO, READY, *recorded("basic")]
    path = log(tmp_path / "log", *term, *term)
    for way in ([], ["--scheduler-cmd", f"{sys.executable} -m testbed.cli.main scheduler"]):
        more = [f"{way[1]} --policy basic"] if way else []
        assert main(["decide", "--replay", path, "--check", *way[:1], *more]) == 0
        assert capsys.readouterr().err == "10 events, 4 decisions, all as recorded\n"


def test_another_policy_decides_for_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log(tmp_path / "log", HELLO, READY, *recorded("basic"))
    assert main(["decide", "--replay", path, "--policy", "dualpath"]) == 0
    assert capsys.readouterr().out.count('"decided"') == 1  # when the DE group fetches
    assert main(["decide", "--replay", path, "--policy", "dualpath", "--check"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "request 1 is decided differently at line 3 of the log" in said
    assert said.endswith("now nothing")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "the log is empty"),
        ([READY], "does not begin with `hello`"),
        ([Hello(99, SPEC, "basic", {})], "of version 99"),
        ([HELLO, READY, READY], "line 3 of the log is `ready`"),
        ([HELLO, READY, Decided(())], "line 3 of the log is `decided`"),
        ([HELLO, READY, EVENTS[3]], "line 3 of the log has seen a decision"),
        (
            [HELLO, READY, Fetch(1.0, "pe", (EngineReport("p0/0", 0, 0, 9, -1),), ())],
            "line 3 of the log has seen a decision",
        ),
        ([Hello(1, SPEC, "mine.sh", {})], "name one with --policy"),
    ],
)
def test_a_log_that_is_none_is_bad_input(
    lines: list[Line], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decide", "--replay", log(tmp_path / "log", *lines)]) == InputError.exit_code
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--policy", "basic", "--scheduler-cmd", "x"], "choose one"),
        (["--scheduler", "unix:x", "--scheduler-cmd", "x"], "choose one"),
        (["--scheduler", "tcp:1"], "give unix:PATH"),
        (["--scheduler", "unix:"], "give unix:PATH"),
        (["--policy", "bassic"], "did you mean 'basic'"),
    ],
)
def test_schedulers_that_nobody_can_ask_are_bad_input(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log(tmp_path / "log", HELLO, READY)
    assert main(["decide", "--replay", path, *words]) == InputError.exit_code
    assert why in capsys.readouterr().err


def test_our_own_scheduler_answers_each_line() -> None:
    lines = recorded("basic")
    asked = BytesIO(b"".join(protocol.encode(x) for x in [HELLO, *EVENTS]))
    answers = BytesIO()
    serve(asked, answers, "basic")
    ready, *decided = [protocol.decode(line) for line in answers.getvalue().splitlines()]
    # A policy takes the experiment's values for what it limits, and sets no other limit.
    assert ready == Ready(protocol.VERSION, Traits(layerwise=False, max_tokens=512, read_ahead=8))
    assert len(decided) == len(EVENTS)
    assert [x for x in decided if x != Decided(())] == [x for x in lines if isinstance(x, Decided)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{}\n", "line 1 is none of the protocol"),
        (protocol.encode(EVENTS[0]), "`hello` comes first"),
        (protocol.encode(HELLO) * 2, "`hello` comes first, and once"),
        (protocol.encode(Hello(99, SPEC, "basic", {})), "version 99"),
    ],
)
def test_our_own_scheduler_says_what_it_does_not_understand(line: bytes, why: str) -> None:
    with pytest.raises(RunFailed, match=why):
        serve(BytesIO(line), BytesIO(), "basic")
