"""What a policy is: a class with the four decisions below.

To try another idea, subclass one of `scheduler/policies/` and change the decision that it is
about; `scheduler/lookup.py` finds it by name.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from typing import Annotated, NamedTuple, NoReturn, Protocol

import msgspec

from scheduler.cluster import Cluster
from scheduler.errors import SchedulerError
from scheduler.types import ReadExtent, Request

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Traits(msgspec.Struct, frozen=True):
    """What a policy asks of the engines; None sets no limit.

    `layerwise`: KV moves layer by layer beside the compute. `quota_s`: a GPU's attention in one
    forward (DualPath section 6.5). `max_tokens`: tokens that a GPU computes in one forward. Either
    cuts the request that would exceed it (chunked prefill). `read_ahead`: requests whose KV a node
    may read into DRAM before a GPU wants it. Without `io` KV moves at once, in the virtual world
    alone.
    """

    layerwise: bool
    quota_s: Seconds | None = None
    max_tokens: Count | None = None
    read_ahead: Count | None = None
    io: bool = True


class Placement(NamedTuple):
    """A request goes to an engine; the engine's side says for which part."""

    request_id: int
    engine: str


class Policy(Protocol):
    """Decides who prefills, who decodes, and who reads; the scheduler keeps the books.

    Placements are taken one at a time: each is in the books, its read included, before the
    next one is asked for. So a generator always sees the cluster as it left it. One that cannot
    be is thrown back to where it was yielded; None stands for no placements.

    A policy may also have reasons of its own for `testbed explain`: `Explains` in
    `scheduler/explain.py`.
    """

    traits: Traits

    def arrived(self, cluster: Cluster, request: Request) -> Iterable[Placement]:
        """A request came: queue it, or place it at once."""
        ...

    def fetch(self, cluster: Cluster, group: str) -> Iterable[Placement]:
        """A group pulls work; its reports are in the books."""
        ...

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """Which side reads which of the request's hit blocks, each exactly once."""
        ...

    def ended(self, request_id: int) -> None:
        """A request is over; it may still be queued if it failed."""
        ...


class Queue(Protocol):
    """Requests that wait for an engine."""

    def drop(self, request_id: int) -> None:
        """Forget a request, if it is there."""
        ...


def leaving(queue: Queue, placements: Iterable[Placement] | None) -> Iterator[Placement]:
    """The placements; whoever is placed leaves the queue, whichever code placed it."""
    for placement in placements or ():
        if isinstance(placement, Placement):
            queue.drop(placement.request_id)
        try:
            yield placement
        except SchedulerError as error:
            throw_back(placements, error)


def throw_back(placements: Iterable[Placement] | None, error: SchedulerError) -> NoReturn:
    """Raise an error at the line that yielded what cannot be, which cannot go on after it."""
    if isinstance(placements, Generator):
        with suppress(StopIteration):
            placements.throw(error)
    raise error
