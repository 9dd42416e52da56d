"""A policy inside a policy: a student's, with every read path that it chooses looked at.

A played file says `from testbed.labs.watched import policy as POLICY`; `watch` says which policy
that is. The record is the process's: a lab plays in a process of its own.
"""

import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

import msgspec

from scheduler import path
from scheduler.cluster import Cluster
from scheduler.errors import SchedulerError
from scheduler.lookup import lookup
from scheduler.policy import Placement, Policy
from scheduler.types import ReadExtent, Request, Side

T = TypeVar("T")


class Choices(msgspec.Struct):
    """How read paths were chosen, counted over requests with hits.

    `longer` and `tied`: the chosen side's node had more to read than the other one's, or as much.
    `turned`: the side was not that of the request before.
    """

    requests: int = 0
    pe: int = 0
    longer: int = 0
    tied: int = 0
    tied_pe: int = 0
    turned: int = 0

    def count(self, cluster: Cluster, pe: str, de: str, side: Side, before: Side | None) -> None:
        """One more."""
        queues = {Side.PE: pe, Side.DE: de}
        tokens = {s: cluster.node_of(engine).read_queue_tokens for s, engine in queues.items()}
        other = Side.DE if side is Side.PE else Side.PE
        tied = tokens[side] == tokens[other]
        self.requests += 1
        self.pe += side is Side.PE
        self.longer += tokens[side] > tokens[other]
        self.tied += tied
        self.tied_pe += tied and side is Side.PE
        self.turned += before is not None and side is not before


class Fault(msgspec.Struct, frozen=True):
    """What a student's code did instead of an answer; `kind` is "raised" or "answer"."""

    kind: str
    what: str


class FaultyPolicy(SchedulerError):
    """A student's code failed; the record has the fault."""


class Record:
    """What is known of the policy that is being played."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.choices = Choices()
        self.fault: Fault | None = None


_record = Record("")


def watch(name: str) -> Record:
    """From now on `policy` makes this one; returns its new record."""
    global _record
    _record = Record(name)
    return _record


def policy() -> Policy:
    """The watched policy, made anew."""
    return Watched(lookup(_record.name), _record)


class Watched:
    """Hands every question to a policy, and looks at its answers."""

    def __init__(self, inner: Policy, record: Record) -> None:
        self.traits = inner.traits
        self._inner = inner
        self._record = record
        self._before: Side | None = None

    def arrived(self, cluster: Cluster, request: Request) -> Iterator[Placement]:
        """As the policy does."""
        return self._each(lambda: self._inner.arrived(cluster, request), f"request {request.id}")

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """As the policy does."""
        return self._each(lambda: self._inner.fetch(cluster, group), f"a fetch of group {group}")

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """As the policy does, if that can be."""
        about = f"request {request.id} ({request.hit_tokens} hit tokens)"
        reads = self._call(lambda: self._inner.reads(cluster, request, pe, de), about)
        self._inspect(cluster, request, reads, about)
        if len({read.side for read in reads}) == 1:
            side = reads[0].side
            self._record.choices.count(cluster, pe, de, side, self._before)
            self._before = side
        return reads

    def ended(self, request_id: int) -> None:
        """As the policy does."""
        self._call(lambda: self._inner.ended(request_id), f"the end of request {request_id}")

    def _each(self, ask: Callable[[], Iterable[Placement]], about: str) -> Iterator[Placement]:
        placements = iter(self._call(ask, about))
        while (placement := self._call(lambda: next(placements, None), about)) is not None:
            yield placement

    def _call(self, ask: Callable[[], T], about: str) -> T:
        try:
            return ask()
        # A student's `exit()` is one, too.
        except (Exception, SystemExit) as error:
            self._stop("raised", f"{_told(error, self._record.name)}; it was about {about}", error)

    def _inspect(self, cluster: Cluster, request: Request, reads: Any, about: str) -> None:
        if not isinstance(reads, tuple) or not all(isinstance(r, ReadExtent) for r in reads):
            self._stop("answer", f"`reads` gave {reads!r:.60} for {about}, not a tuple of reads")
        for read in reads:
            if not isinstance(read.side, Side):
                self._stop("answer", f"`side` gave {read.side!r:.60} for {about}")
        try:
            path.check(cluster, request, reads)
        except SchedulerError as error:
            self._stop("answer", str(error), error)

    def _stop(self, kind: str, what: str, cause: BaseException | None = None) -> NoReturn:
        self._record.fault = Fault(kind, what)
        raise FaultyPolicy(what) from cause


def _told(error: BaseException, name: str) -> str:
    """An error and the newest of its lines that is in the student's file."""
    file = name.partition(":")[0]
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"line {frame.lineno}: " for frame in frames if frame.filename == file]
    return f"{lines[-1] if lines else ''}{type(error).__name__}: {error}"
