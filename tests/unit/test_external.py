"""A scheduler in another process: what it may say, and what is said of it if it does not."""

import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_protocol import SPEC

from scheduler import protocol
from scheduler.errors import PolicyFailed, SchedulerError
from scheduler.policy import Traits
from scheduler.protocol import Decided, Hello, Ready
from scheduler.types import Arrived, Decision, Ended, EngineReport, Fetch, ReadExtent, Request, Side
from testbed.errors import InputError
from testbed.external import channel
from testbed.external.scheduler import External, ask_ready, external, label

HELLO = Hello(protocol.VERSION, SPEC, "mine", {"quota_s": 0.3})
READY = Ready(protocol.VERSION, Traits(layerwise=True))
REQUEST = Request(5, 0, 0, 640, 576, 10)
WHOLE = (ReadExtent(Side.DE, 0, 9),)
GOOD = Decision(1, 5, "p0/0", "d0/0", WHOLE)


class Scripted:
    """A channel whose other end says what the test wants, whatever it is asked."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self._answers = list(answers)

    def exchange(self, line: bytes) -> bytes:
        self.asked.append(line)
        return self._answers.pop(0)


def scheduler(*answers: protocol.Line | bytes) -> tuple[External, Scripted]:
    lines = [a if isinstance(a, bytes) else protocol.encode(a)[:-1] for a in (READY, *answers)]
    channel = Scripted(*lines)
    return External(channel, HELLO), channel  # type: ignore[arg-type]


def test_it_is_asked_with_each_event_and_its_decisions_are_taken() -> None:
    found, channel = scheduler(Decided((GOOD,)), Decided(()))
    arrived, ended = Arrived(0.5, REQUEST), Ended(1.0, 5)
    assert found.traits == READY.traits
    assert found.handle(arrived) == (GOOD,) and found.handle(ended) == ()
    assert channel.asked == [protocol.encode(line) for line in (HELLO, arrived, ended)]


def test_unchanged_reports_are_not_said_again() -> None:
    found, channel = scheduler(Decided(()), Decided(()))
    for _ in range(2):
        found.handle(Fetch(1.0, "pe", (EngineReport("p0/0", 0, 0, 64, 0),), ()))
    first, second = (protocol.decode(line) for line in channel.asked[1:])
    assert isinstance(first, Fetch) and isinstance(second, Fetch)
    assert len(first.engines) == 1 and not second.engines


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (Decision(2, 5, "p0/0", "d0/0", WHOLE), "its seq is 2, and decision 1 is due"),
        (Decision(1, 5, "p9/0", "d0/0", WHOLE), "'p9/0', but this engine is not in the cluster"),
        (Decision(1, 6, "p0/0", "d0/0", WHOLE), "but this request is not live"),
        (Decision(1, 5, "d0/0", "p0/0", WHOLE), "swap them"),
        (Decision(1, 5, "p0/0", "p0/0", WHOLE), "already has a PE"),
        (Decision(1, 5, "p0/0", "d0/0", ()), "do not cover its 9 hit blocks"),
        (Decision(1, 5, "p0/0", "d0/0", (*WHOLE, *WHOLE)), "do not cover its 9 hit blocks"),
    ],
)
def test_a_decision_that_contradicts_the_cluster_is_named(decision: Decision, why: str) -> None:
    found, _ = scheduler(Decided((decision,)))
    with pytest.raises(PolicyFailed) as caught:
        found.handle(Arrived(0.5, REQUEST))
    said = str(caught.value)
    assert why in said and f"decided request {decision.request_id} wrongly" in said
    assert "line 2, request 5 arrives at 0.5 s" in said


def test_a_request_is_decided_once() -> None:
    found, _ = scheduler(Decided((GOOD,)), Decided((Decision(2, 5, "p0/0", "d0/0", WHOLE),)))
    found.handle(Arrived(0.5, REQUEST))
    with pytest.raises(PolicyFailed, match="already has a PE"):
        found.handle(Fetch(1.0, "pe", (), ()))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"{", "no line of the protocol"),
        (b"\xff", "no line of the protocol"),
        (b'{"type":"guess"}', "Invalid value 'guess'"),
        (b'{"type":"decided"}', "missing required field `decisions`"),
        (b'{"type":"decided","decisions":[{"seq":"1"}]}', r"\$\.decisions\[0\]\.seq"),
        (protocol.encode(READY)[:-1], "another line than `decided`"),
    ],
)
def test_an_answer_that_is_none_is_named(answer: bytes, why: str) -> None:
    found, _ = scheduler(answer)
    with pytest.raises(PolicyFailed, match=why):
        found.handle(Arrived(0.5, REQUEST))


def test_what_a_newer_scheduler_adds_is_ignored() -> None:
    found, _ = scheduler(b'{"type":"decided","decisions":[],"why":"nothing to do"}')
    assert found.handle(Arrived(0.5, REQUEST)) == ()


def test_another_version_is_refused() -> None:
    channel = Scripted(protocol.encode(Ready(99, READY.traits)))
    with pytest.raises(PolicyFailed, match="speaks version 99"):
        External(channel, HELLO)  # type: ignore[arg-type]


def test_an_event_that_contradicts_the_cluster_is_no_fault_of_the_scheduler() -> None:
    found, channel = scheduler()
    with pytest.raises(SchedulerError, match="not whole blocks"):
        found.handle(Arrived(0.5, Request(5, 0, 0, 640, 577, 10)))
    assert len(channel.asked) == 1


def python(program: str) -> str:
    return f"cmd:{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


SPEAKS = f"""
import os, sys
sys.stdin.readline()
print({protocol.encode(READY).decode()!r}, end="", flush=True)
"""


def refused(program: str, tmp_path: Path, deadline_s: float = 5.0) -> str:
    with (
        pytest.raises(PolicyFailed) as caught,
        external(python(program), HELLO, tmp_path, deadline_s) as found,
    ):
        found.handle(Arrived(0.5, REQUEST))
    return str(caught.value)


def test_a_process_that_ends_is_named_with_its_last_words(tmp_path: Path) -> None:
    said = refused(SPEAKS + "sys.stdin.readline(); sys.exit('no more luck')", tmp_path)
    assert "has ended, asked with line 2, request 5 arrives at 0.5 s" in said
    assert said.endswith("exit code 1; the last that it said: no more luck")


def test_a_process_that_is_silent_is_named_and_ended(tmp_path: Path) -> None:
    tell = "import time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    program = SPEAKS + f"os.chdir({str(tmp_path)!r}); {tell}"
    assert "did not answer within 0.5 s" in refused(program, tmp_path, 0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_two_answers_to_one_event_are_one_too_many(tmp_path: Path) -> None:
    twice = protocol.encode(READY) * 2
    program = f"import os, sys; sys.stdin.readline(); os.write(1, {twice!r}); sys.stdin.read()"
    assert "said more than one line" in refused(program, tmp_path)


def test_it_is_ended_with_its_children_when_we_fail(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"  # at its end when nobody holds it open for writing
    os.mkfifo(fifo)
    hold = f"alive = open({str(fifo)!r}, 'w')\nif not os.fork(): print('x', file=alive, flush=True)"
    program = f"{SPEAKS}{hold}\nimport time; time.sleep(600)"
    with pytest.raises(ZeroDivisionError), external(python(program), HELLO, tmp_path, 5.0):
        alive = fifo.open()
        assert alive.readline() == "x\n"
        raise ZeroDivisionError
    with alive:
        assert alive.read() == ""


def test_a_large_line_goes_through_a_pipe_that_fills(tmp_path: Path) -> None:
    engines = SPEC.engines * 2000
    hello = Hello(protocol.VERSION, SPEC, "x" * 3_000_000, {})
    assert len(engines) and ask_ready(python(SPEAKS), hello) == READY.traits


def test_ctrl_c_ends_a_wait(tmp_path: Path) -> None:
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with (
        pytest.raises(KeyboardInterrupt),
        external(python(SPEAKS + "sys.stdin.read()"), HELLO, tmp_path, 60.0) as found,
    ):
        found.handle(Arrived(0.5, REQUEST))
    timer.join()


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("cmd:./nobody --at home", "no program './nobody'"),
        ("cmd:", "no program ''"),
        ("cmd:'x", "No closing quotation"),
        ("unix:/nowhere/at/all", "No such file or directory; start a scheduler"),
    ],
)
def test_what_cannot_be_started_is_bad_input(word: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why), external(word, HELLO, tmp_path, 5.0):
        pass


def test_a_script_that_names_no_interpreter_is_bad_input(tmp_path: Path) -> None:
    script = tmp_path / "mine"
    script.write_text("print('hm')")
    script.chmod(0o755)
    with (
        pytest.raises(InputError, match="Exec format error; a script begins with"),
        external(f"cmd:{script}", HELLO, tmp_path, 5.0),
    ):
        pass


def test_a_scheduler_may_listen_on_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()

        def answer() -> None:
            end, _ = door.accept()
            with end, end.makefile("rwb", buffering=0) as lines:
                for said in (READY, Decided((GOOD,))):
                    lines.readline()
                    lines.write(protocol.encode(said))

        other = threading.Thread(target=answer)
        other.start()
        with external(f"unix:{path}", HELLO, tmp_path, 5.0) as found:
            assert found.handle(Arrived(0.5, REQUEST)) == (GOOD,)
        other.join()


def test_tables_call_it_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("")
    named: Callable[[str], str] = label
    assert named("cmd:sh mine.py --fast") == "mine.py"
    assert named("cmd:sh -c 'exec x'") == "sh"
    assert named("unix:/run/mine.sock") == "mine.sock"


def test_a_second_answer_that_comes_late_is_not_taken_for_the_next(tmp_path: Path) -> None:
    """It would answer each event with the decisions of the one before."""
    met, said = tmp_path / "met", tmp_path / "said"
    late = (
        f"import time\nwhile not os.path.exists({str(met)!r}): time.sleep(0.01)\n"
        f"print(end='\\n', flush=True); open({str(said)!r}, 'w')"
    )
    with external(python(f"{SPEAKS}{late}; sys.stdin.read()"), HELLO, tmp_path, 5.0) as found:
        met.touch()  # its first line is taken
        end_s = time.monotonic() + 30
        while not said.exists():
            assert time.monotonic() < end_s, "it said nothing more"
            time.sleep(0.01)  # the period of a poll with a deadline
        with pytest.raises(PolicyFailed, match="said more than one line for the last event"):
            found.handle(Arrived(0.5, REQUEST))


def test_a_line_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LONGEST_LINE_BYTES", 1 << 20)
    program = SPEAKS + "sys.stdin.readline()\nwhile True: os.write(1, b'x' * 65536)"
    assert "said a line of more than 1 MiB" in refused(program, tmp_path)
