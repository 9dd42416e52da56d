"""What the scheduler knows: one book per engine and node.

A book is the last report plus what was promised since. A promise is a request chosen for an
engine, or read on a node, that the last report has not `seen` yet. It stays in the book until a
report includes it or its request ends, so stale reports make the scheduler forget nothing.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from scheduler.errors import SchedulerError
from scheduler.types import (
    ClusterSpec,
    Decision,
    EngineReport,
    EngineSpec,
    Fetch,
    NodeReport,
    ReadExtent,
    Request,
    Side,
)


class Load(NamedTuple):
    """What one request adds to a book: tokens in all, and tokens of HBM in whole blocks."""

    tokens: int
    hbm_tokens: int


class Promises:
    """Requests that a book's last report may not include, with running totals of those it lacks."""

    def __init__(self) -> None:
        self.requests = self.tokens = self.hbm_tokens = 0
        self._seen = 0
        self._chosen: dict[int, Load] = {}
        # In order of seq, so that a report only has to look at the newest of them.
        self._decided: dict[int, tuple[int, Load]] = {}

    def choose(self, request_id: int, load: Load) -> None:
        """Promise a request; no report can have seen it before its decision."""
        self._chosen[request_id] = load
        self._count(load, 1)

    def decide(self, request_id: int, seq: int) -> None:
        """The promised request was decided: a report that has seen `seq` includes it."""
        self._decided[request_id] = (seq, self._chosen.pop(request_id))

    def settle(self, seen: int) -> None:
        """Count again what a report lacks that includes every decision up to `seen`."""
        self._seen = seen
        self.requests = self.tokens = self.hbm_tokens = 0
        for load in self._chosen.values():
            self._count(load, 1)
        for seq, load in reversed(self._decided.values()):
            if seq <= seen:
                break
            self._count(load, 1)

    def drop(self, request_id: int) -> None:
        """The request ended: reports to come say so themselves, the last one if it knew of it."""
        load = self._chosen.pop(request_id, None)
        if load is None and request_id in self._decided:
            seq, decided = self._decided.pop(request_id)
            load = decided if seq > self._seen else None
        if load is not None:
            self._count(load, -1)

    def _count(self, load: Load, times: int) -> None:
        self.requests += times
        self.tokens += times * load.tokens
        self.hbm_tokens += times * load.hbm_tokens


class NodeBook:
    """One node's storage-read queue as of now; `last_read` is the seq of its newest read."""

    def __init__(self, name: str, group: str) -> None:
        self.name = name
        self.group = group
        self.last_read = 0
        self.promises = Promises()
        self._last = NodeReport(name, 0, 0)

    @property
    def read_queue_tokens(self) -> int:
        """read_q: tokens that its storage NIC has still to read."""
        return self._last.read_queue_tokens + self.promises.tokens

    def report(self, report: NodeReport) -> None:
        """Start again from a report."""
        self._last = report
        self.promises.settle(report.seen)


class EngineBook:
    """One engine: seq_e, tok_e and free HBM as of now; `order` is its place in natural order."""

    def __init__(self, spec: EngineSpec, order: int, node: NodeBook) -> None:
        self.spec = spec
        self.name = spec.name
        self.order = order
        self.node = node
        self.promises = Promises()
        self._last = EngineReport(spec.name, 0, 0, spec.hbm_tokens, 0)

    @property
    def requests(self) -> int:
        """seq_e: assigned, unfinished requests."""
        return self._last.requests + self.promises.requests

    @property
    def tokens(self) -> int:
        """tok_e: tokens over those requests (a PE counts prompts, a DE whole contexts)."""
        return self._last.tokens + self.promises.tokens

    @property
    def free_hbm_tokens(self) -> int:
        """HBM that nobody holds and nobody was promised, in tokens."""
        return self._last.free_hbm_tokens - self.promises.hbm_tokens

    def report(self, report: EngineReport) -> None:
        """Start again from a report."""
        self._last = report
        self.promises.settle(report.seen)


class Group:
    """Engines that fetch together: all PEs, or all DEs."""

    def __init__(self, name: str, side: Side) -> None:
        self.name = name
        self.side = side
        self.engines: list[EngineBook] = []

    @property
    def tokens(self) -> int:
        """Sum of tok_e over the group."""
        return sum(engine.tokens for engine in self.engines)


class Turn:
    """A request between its arrival and its end, and where it was placed so far."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.pe: str | None = None
        self.de: str | None = None


class Cluster:
    """All books, and every live request; engines and groups iterate in natural order."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.engines: dict[str, EngineBook] = {}
        self.nodes: dict[str, NodeBook] = {}
        self.groups: dict[str, Group] = {}
        self.decisions = 0
        self._turns: dict[int, Turn] = {}
        for order, engine in enumerate(sorted(spec.engines, key=_natural_order)):
            self._add(engine, order)
        self._sides = {
            side: [book for book in self.engines.values() if book.spec.side is side]
            for side in Side
        }
        for side, books in self._sides.items():
            if not books:
                raise SchedulerError(f"the cluster has no {side.upper()}; give it at least one")
        decoders = (book.spec for book in self.on(Side.DE))
        self._smallest_de = min(decoders, key=lambda engine: engine.hbm_tokens)

    def on(self, side: Side) -> list[EngineBook]:
        """All engines of one side."""
        return self._sides[side]

    def node_of(self, engine: str) -> NodeBook:
        """The book of the node that an engine is part of."""
        return self.engines[engine].node

    def hbm_tokens(self, request: Request) -> int:
        """HBM that a request's context takes at its end, in whole blocks."""
        block_tokens = self.spec.block_tokens
        return -(-request.context_tokens // block_tokens) * block_tokens

    def arrive(self, request: Request) -> None:
        """Open a request; raises SchedulerError if this cluster could never serve it."""
        if request.id in self._turns:
            raise SchedulerError(
                f"request {request.id} arrived twice; give each request an id of its own"
            )
        if request.hit_tokens % self.spec.block_tokens:
            raise SchedulerError(
                f"request {request.id} hits {request.hit_tokens} tokens, which is not whole blocks "
                f"of {self.spec.block_tokens}; round its hit down"
            )
        if not 0 <= request.hit_tokens <= request.prompt_tokens:
            raise SchedulerError(
                f"request {request.id} hits {request.hit_tokens} of {request.prompt_tokens} prompt "
                "tokens; a hit is a part of the prompt"
            )
        # Any DE may be chosen, so the smallest must hold it; else it would wait for ever.
        if self.hbm_tokens(request) > self._smallest_de.hbm_tokens:
            raise SchedulerError(
                f"request {request.id} needs {self.hbm_tokens(request)} tokens of HBM and "
                f"{self._smallest_de.name} has {self._smallest_de.hbm_tokens}; "
                "shorten its context or enlarge the decode HBM"
            )
        self._turns[request.id] = Turn(request)

    def place(self, request_id: int, engine: str) -> Turn:
        """Book a request on the engine chosen for its side."""
        turn, book = self._turns.get(request_id), self.engines.get(engine)
        if turn is None or book is None:
            raise SchedulerError(
                f"request {request_id} was placed on {engine!r}, but this "
                f"{'request is not live' if turn is None else 'engine is not in the cluster'}; "
                "correct the policy"
            )
        side = book.spec.side
        if (turn.pe if side is Side.PE else turn.de) is not None:
            raise SchedulerError(
                f"request {request_id} was placed on {engine}, but already has a {side.upper()}; "
                "correct the policy"
            )
        request = turn.request
        if side is Side.PE:
            turn.pe = engine
            book.promises.choose(request_id, Load(request.prompt_tokens, request.prompt_tokens))
        else:
            turn.de = engine
            load = Load(request.context_tokens, self.hbm_tokens(request))
            book.promises.choose(request_id, load)
        return turn

    def decide(self, request_id: int, pe: str, de: str, reads: tuple[ReadExtent, ...]) -> Decision:
        """Number the decision and book its reads on the nodes' queues."""
        self.decisions += 1
        seq = self.decisions
        for engine in (pe, de):
            self.engines[engine].promises.decide(request_id, seq)
        for side, engine in ((Side.PE, pe), (Side.DE, de)):
            blocks = sum(read.count for read in reads if read.side is side)
            if blocks:
                node = self.node_of(engine)
                node.last_read = seq
                node.promises.choose(request_id, Load(blocks * self.spec.block_tokens, 0))
                node.promises.decide(request_id, seq)
        return Decision(seq, request_id, pe, de, reads)

    def report(self, fetch: Fetch) -> None:
        """Start the group's books again from its reports; all of them, or none on an error."""
        group = self.groups.get(fetch.group)
        if group is None:
            raise SchedulerError(
                f"group {fetch.group!r} fetched, but the cluster has {', '.join(self.groups)}; "
                "correct the group's name"
            )
        members = {book.name for book in group.engines}
        nodes = {book.spec.node for book in group.engines}
        self._check(group, members, ((report.engine, report.seen) for report in fetch.engines))
        self._check(group, nodes, ((report.node, report.seen) for report in fetch.nodes))
        for engine in fetch.engines:
            self.engines[engine.engine].report(engine)
        for node in fetch.nodes:
            self.nodes[node.node].report(node)

    def end(self, request_id: int) -> None:
        """Forget a request, done or failed.

        A second end is no contradiction: several parts of a turn may find the same failure.
        """
        turn = self._turns.pop(request_id, None)
        if turn is None:
            return
        for engine in (turn.pe, turn.de):
            if engine is not None:
                self.engines[engine].promises.drop(request_id)
                self.node_of(engine).promises.drop(request_id)

    def _check(self, group: Group, known: set[str], reports: Iterable[tuple[str, int]]) -> None:
        for name, seen in reports:
            if name not in known:
                raise SchedulerError(
                    f"group {group.name} reported {name!r}, which is not part of it; "
                    f"it may report {', '.join(sorted(known))}"
                )
            if seen > self.decisions:
                raise SchedulerError(
                    f"{name} reported to have seen decision {seen}, but only {self.decisions} "
                    "were made; is it of another run?"
                )

    def _add(self, engine: EngineSpec, order: int) -> None:
        if engine.name in self.engines:
            raise SchedulerError(f"engine {engine.name} is there twice; name each engine once")
        group = self.groups.setdefault(engine.group, Group(engine.group, engine.side))
        if group.side is not engine.side:
            raise SchedulerError(
                f"group {engine.group} has PEs and DEs; put {engine.name} into a group of its side"
            )
        node = self.nodes.setdefault(engine.node, NodeBook(engine.node, engine.group))
        book = self.engines[engine.name] = EngineBook(engine, order, node)
        group.engines.append(book)
        if node.group != engine.group:
            raise SchedulerError(
                f"node {engine.node} has engines in the groups {node.group} and {engine.group}; "
                "put all engines of a node into one group"
            )


def _natural_order(engine: EngineSpec) -> tuple[tuple[int, int | str], ...]:
    """`p2/1` before `p10/0`: numbers inside a name compare as numbers."""
    parts = re.findall(r"\d+|\D+", engine.name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)
