"""The books: what the scheduler knows of each engine, node and group.

A book is the last report plus what was promised since. A promise is a request chosen for an
engine, or read on a node, that the last report has not `seen` yet. It stays in the book until a
report includes it or its request ends, so stale reports make the scheduler forget nothing.

A large cluster reports thousands of times a second, and most reports say what the last one said.
So totals are kept as they change, and never summed again.
"""

import heapq
from collections import deque

import msgspec

from scheduler.types import EngineReport, EngineSpec, NodeReport, Side

MOST_ENTRIES = 4  # that a heap holds for each group before those out of date are thrown away


class Load(msgspec.Struct, frozen=True, gc=False):
    """What one request adds to a book: tokens in all, and tokens of HBM in whole blocks."""

    tokens: int
    hbm_tokens: int


class Promise(msgspec.Struct, frozen=True, gc=False):
    """A decided request: a report that has seen `seq` includes it."""

    seq: int
    request_id: int
    load: Load


class Promises:
    """Requests that a book's last report may not include, with running totals of those it lacks."""

    def __init__(self) -> None:
        self.requests = self.tokens = self.hbm_tokens = 0
        self._seen = 0
        self._chosen: dict[int, Load] = {}
        self._decided: dict[int, Promise] = {}  # in order of seq
        # The newest of them, those of ended requests included.
        self._unseen: deque[Promise] = deque()

    def choose(self, request_id: int, load: Load) -> None:
        """Promise a request; no report can have seen it before its decision."""
        self._chosen[request_id] = load
        self._count(load, 1)

    def decide(self, request_id: int, seq: int) -> None:
        """The promised request was decided: a report that has seen `seq` includes it."""
        promise = Promise(seq, request_id, self._chosen.pop(request_id))
        self._decided[request_id] = promise
        self._unseen.append(promise)

    def settle(self, seen: int) -> None:
        """The last report includes every decision up to `seen`; what came later, it lacks."""
        unseen = self._unseen
        if seen < self._seen:  # it starts over, and lacks again what is still live
            again = [p for p in self._decided.values() if seen < p.seq <= self._seen]
            unseen.extendleft(reversed(again))
            for promise in again:
                self._count(promise.load, 1)
        while unseen and unseen[0].seq <= seen:
            promise = unseen.popleft()
            if self._decided.get(promise.request_id) is promise:
                self._count(promise.load, -1)
        self._seen = seen

    def drop(self, request_id: int) -> bool:
        """Whether that changed a total: the request ended, and the last report knew nothing of it.

        Reports to come say so themselves.
        """
        if promise := self._decided.pop(request_id, None):
            if promise.seq <= self._seen:
                return False
            self._count(promise.load, -1)
        elif load := self._chosen.pop(request_id, None):
            self._count(load, -1)
        else:
            return False
        return True

    def _count(self, load: Load, times: int) -> None:
        self.requests += times
        self.tokens += times * load.tokens
        self.hbm_tokens += times * load.hbm_tokens


class NodeBook:
    """One node's storage-read queue, as its last report has it, with what was promised since.

    `read_queue_tokens` is read_q, tokens that its storage NIC had still to read at `counted_s`;
    `read_tokens` is all that it was ever given to read, `last_read` the seq of its newest read.
    """

    def __init__(self, name: str, group: str) -> None:
        self.name = name
        self.group = group
        self.read_tokens = self.last_read = 0
        self.counted_s = 0.0
        self.promises = Promises()
        self.last = NodeReport(name, 0, 0)
        self.read_queue_tokens = 0

    def read(self, request_id: int, seq: int, tokens: int) -> None:
        """Promise it the read of a decided request."""
        self.read_tokens += tokens
        self.last_read = seq
        self.promises.choose(request_id, Load(tokens, 0))
        self.promises.decide(request_id, seq)
        self._add_up()

    def drop(self, request_id: int) -> None:
        """The request ended."""
        if self.promises.drop(request_id):
            self._add_up()

    def report(self, report: NodeReport, fetched_s: float) -> None:
        """Start again from a report."""
        self.counted_s = fetched_s if report.at_s is None else report.at_s
        self.last = report
        self.promises.settle(report.seen)
        self._add_up()

    def _add_up(self) -> None:
        self.read_queue_tokens = self.last.read_queue_tokens + self.promises.tokens


class EngineBook:
    """One engine as of now; `order` is its place in natural order.

    `requests` is seq_e, assigned, unfinished requests; `tokens` is tok_e, tokens over those (a PE
    counts prompts, a DE whole contexts); `free_hbm_tokens` is HBM that nobody holds and nobody was
    promised.
    """

    def __init__(self, spec: EngineSpec, order: int, node: NodeBook, group: "Group") -> None:
        self.spec = spec
        self.name = spec.name
        self.order = order
        self.node = node
        self.group = group
        self.promises = Promises()
        self.last = EngineReport(spec.name, 0, 0, spec.hbm_tokens, 0)
        self.requests = self.tokens = 0
        self.free_hbm_tokens = spec.hbm_tokens

    def choose(self, request_id: int, load: Load) -> None:
        """Promise it a request."""
        self.promises.choose(request_id, load)
        self._add_up()

    def drop(self, request_id: int) -> None:
        """The request ended."""
        if self.promises.drop(request_id):
            self._add_up()

    def report(self, report: EngineReport) -> None:
        """Start again from a report."""
        self.last = report
        self.promises.settle(report.seen)
        self._add_up()

    def _add_up(self) -> None:
        last, promises, before = self.last, self.promises, self.tokens
        self.requests = last.requests + promises.requests
        self.tokens = last.tokens + promises.tokens
        self.free_hbm_tokens = last.free_hbm_tokens - promises.hbm_tokens
        if self.tokens != before:
            self.group.add(self.tokens - before)


class Group:
    """Engines that fetch together: all PEs, or all DEs; `rank` is its place in natural order.

    `tokens` is the sum of tok_e over the group, `queued_tokens` that of the requests that wait
    for one of its engines.
    """

    def __init__(self, name: str, side: Side, rank: int, by_load: "GroupsByLoad") -> None:
        self.name = name
        self.side = side
        self.rank = rank
        self.engines: tuple[EngineBook, ...] = ()  # nobody sorts the books' own order in place
        self.books: dict[str, EngineBook] = {}
        self.nodes: dict[str, NodeBook] = {}
        self.tokens = self.queued_tokens = 0
        self._by_load = by_load
        by_load.moved(self)

    @property
    def load_tokens(self) -> int:
        """Tokens of all that the group serves or will have to."""
        return self.tokens + self.queued_tokens

    def join(self, book: EngineBook) -> None:
        """Take an engine in."""
        self.engines += (book,)
        self.books[book.name] = book
        self.nodes[book.node.name] = book.node

    def add(self, tokens: int) -> None:
        """The sum of tok_e changed by so many."""
        self.tokens += tokens
        self._by_load.moved(self)

    def queue(self, tokens: int) -> None:
        """The tokens that wait for the group's engines changed by so many."""
        self.queued_tokens += tokens
        self._by_load.moved(self)


class GroupsByLoad:
    """The groups of one side, to find the one with the smallest load without a look at each.

    A heap whose entries are not corrected when a load moves: the group gets another entry the
    next time that anybody asks, and an entry that is out of date is dropped when it comes up.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Group]] = []
        self._moved: set[Group] = set()
        self._groups: set[Group] = set()

    def moved(self, group: Group) -> None:
        """A group's load changed, or it is new."""
        self._moved.add(group)

    def lightest(self) -> Group:
        """The group with the smallest load, the first of equal ones."""
        heap = self._heap
        for group in self._moved:
            heapq.heappush(heap, (group.load_tokens, group.rank, group))
        self._groups |= self._moved
        self._moved.clear()
        if len(heap) > MOST_ENTRIES * len(self._groups):
            heap[:] = [(group.load_tokens, group.rank, group) for group in self._groups]
            heapq.heapify(heap)
        while heap[0][0] != heap[0][2].load_tokens:
            heapq.heappop(heap)
        return heap[0][2]
