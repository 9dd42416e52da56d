"""A scheduler in another process, in lockstep: each event is sent, and its answer waited for.

What it decides goes through the same books as the decisions of our own scheduler.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from scheduler import path, protocol
from scheduler.cluster import Cluster
from scheduler.errors import PolicyFailed, SchedulerError
from scheduler.policy import Traits
from scheduler.protocol import Decided, Hello, Line, News, Ready
from scheduler.types import Decision, Event
from testbed.external.channel import Channel, ChannelError, command_words, connected, spawned

COMMAND, SOCKET = "cmd:", "unix:"
DEADLINE_S = 10.0
WORDS = "scheduler.err"  # in a run's folder: what the process said on standard error
PAGE = "docs/protocol.md"
LONGEST_LINE = 200


def is_external(word: str) -> bool:
    """Whether a policy's word speaks of a process: `cmd:COMMAND` or `unix:PATH`."""
    return word.startswith((COMMAND, SOCKET))


def label(word: str) -> str:
    """What tables call it: its file's name, or that of its program if none of its words is one."""
    if word.startswith(SOCKET):
        return Path(word.removeprefix(SOCKET)).name
    words = command_words(word.removeprefix(COMMAND))
    return Path(next((part for part in words if Path(part).is_file()), words[0])).name


def ask_ready(word: str, hello: Hello, deadline_s: float = DEADLINE_S) -> Traits:
    """What a scheduler asks of the engines; it is started for this question alone."""
    with (
        tempfile.TemporaryDirectory(prefix="dualpath-scheduler-") as folder,
        external(word, hello, Path(folder), deadline_s) as scheduler,
    ):
        return scheduler.traits


@contextmanager
def external(word: str, hello: Hello, folder: Path, deadline_s: float) -> Iterator["External"]:
    """The scheduler behind a word, ended with the block; raises InputError and PolicyFailed."""
    if word.startswith(COMMAND):
        channel = spawned(word.removeprefix(COMMAND), folder / WORDS, deadline_s)
    else:
        channel = connected(Path(word.removeprefix(SOCKET)), deadline_s)
    with channel as lines:
        yield External(lines, hello)


class External:
    """A scheduler that speaks the protocol over a channel.

    Raises PolicyFailed at an answer that is none, that contradicts the cluster, or that does not
    come, and the same again if it is asked once more.
    """

    def __init__(self, channel: Channel, hello: Hello) -> None:
        self._channel = channel
        self._cluster = Cluster(hello.cluster)
        self._news = News()
        self._lines = 0
        self._failed: PolicyFailed | None = None
        ready = self._ask(hello)
        if not isinstance(ready, Ready):
            self._refuse(hello, "answered with another line than `ready`")
        if ready.version != protocol.VERSION:
            self._refuse(
                hello,
                f"speaks version {ready.version} of the protocol, and this testbed speaks "
                f"{protocol.VERSION}",
            )
        self.traits = ready.traits

    def handle(self, event: Event) -> Sequence[Decision]:
        """What it decides, checked."""
        self._cluster.hear(event)
        said = self._news.of(event)
        answer = self._ask(said)
        if not isinstance(answer, Decided):
            self._refuse(said, "answered with another line than `decided`")
        for decision in answer.decisions:
            try:
                self._book(decision)
            except SchedulerError as error:
                self._refuse(said, f"decided request {decision.request_id} wrongly: {error}")
        return answer.decisions

    def _book(self, decision: Decision) -> None:
        cluster = self._cluster
        if decision.seq != cluster.decisions + 1:
            raise SchedulerError(
                f"its seq is {decision.seq}, and decision {cluster.decisions + 1} is due; "
                "count decisions from 1"
            )
        cluster.place(decision.request_id, decision.pe)
        turn = cluster.place(decision.request_id, decision.de)
        if turn.pe != decision.pe:
            raise SchedulerError(f"{decision.pe} is no PE and {decision.de} no DE; swap them")
        path.check(cluster, turn.request, decision.reads)
        cluster.decide(decision.request_id, decision.pe, decision.de, decision.reads)

    def _ask(self, line: Line) -> Line:
        if self._failed is not None:
            raise self._failed
        self._lines += 1
        try:
            answer = self._channel.exchange(protocol.encode(line))
        except ChannelError as error:
            last = self._channel.last_words()
            self._fail(f"{error}, asked with line {self._lines}, {protocol.words(line)}{last}")
        try:
            return protocol.decode(answer)
        except msgspec.MsgspecError as error:
            shown = answer[:LONGEST_LINE].decode(errors="replace")
            self._refuse(line, f"answered with no line of the protocol ({error}): {shown}")

    def _refuse(self, asked: Line, why: str) -> NoReturn:
        self._fail(
            f"{why}; it was asked with line {self._lines}, {protocol.words(asked)}; see {PAGE}"
        )

    def _fail(self, why: str) -> NoReturn:
        self._failed = PolicyFailed(f"the scheduler {why}")
        raise self._failed
