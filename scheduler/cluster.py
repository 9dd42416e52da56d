"""What the scheduler knows: one book per engine, node and group, and every live request."""

import re
from collections.abc import Iterable
from typing import NoReturn

from scheduler.books import EngineBook, Group, GroupsByLoad, Load, NodeBook
from scheduler.errors import SchedulerError
from scheduler.types import (
    Arrived,
    ClusterSpec,
    Decision,
    Ended,
    EngineSpec,
    Event,
    Fetch,
    ReadExtent,
    Request,
    Side,
)


class Turn:
    """A request between its arrival and its end, and where it was placed so far."""

    __slots__ = ("de", "pe", "request")  # there is one for each agent

    def __init__(self, request: Request) -> None:
        self.request = request
        self.pe: str | None = None
        self.de: str | None = None


class Cluster:
    """All books, and every live request; engines and groups iterate in natural order."""

    def __init__(self, spec: ClusterSpec) -> None:
        if spec.block_tokens < 1:
            raise SchedulerError(
                f"blocks of {spec.block_tokens} tokens hold nothing; give the cluster larger ones"
            )
        self.spec = spec
        self.engines: dict[str, EngineBook] = {}
        self.nodes: dict[str, NodeBook] = {}
        self.groups: dict[str, Group] = {}
        self.groups_by_load = {side: GroupsByLoad() for side in Side}
        self.decisions = 0
        self.now_s = 0.0
        self._turns: dict[int, Turn] = {}
        self._without_pe: dict[int, Request] = {}
        self._without_de: dict[int, Request] = {}
        for order, engine in enumerate(sorted(spec.engines, key=_natural_order)):
            self._add(engine, order)
        self._sides = {
            side: tuple(book for book in self.engines.values() if book.spec.side is side)
            for side in Side
        }
        for side, books in self._sides.items():
            if not books:
                raise SchedulerError(f"the cluster has no {side.upper()}; give it at least one")
        decoders = (book.spec for book in self.on(Side.DE))
        self._smallest_de = min(decoders, key=lambda engine: engine.hbm_tokens)

    def on(self, side: Side) -> tuple[EngineBook, ...]:
        """All engines of one side."""
        return self._sides[side]

    def waiting(self, side: Side) -> list[Request]:
        """Live requests without an engine of this side, in order of arrival."""
        return list((self._without_pe if side is Side.PE else self._without_de).values())

    def node_of(self, engine: str) -> NodeBook:
        """The book of the node that an engine is part of."""
        return self.engines[engine].node

    def hbm_tokens(self, request: Request) -> int:
        """HBM that a request's context takes at its end, in whole blocks."""
        block_tokens = self.spec.block_tokens
        return -(-request.context_tokens // block_tokens) * block_tokens

    def hear(self, event: Event) -> None:
        """Book what an event says; raises SchedulerError at what contradicts the books."""
        self.now_s = event.now_s
        match event:  # the most frequent first
            case Fetch():
                self.report(event)
            case Arrived():
                self.arrive(event.request)
            case Ended():
                self.end(event.request_id)

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
        self._without_pe[request.id] = self._without_de[request.id] = request

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
            del self._without_pe[request_id]
            turn.pe = engine
            book.choose(request_id, Load(request.prompt_tokens, request.prompt_tokens))
        else:
            del self._without_de[request_id]
            turn.de = engine
            book.choose(request_id, Load(request.context_tokens, self.hbm_tokens(request)))
        return turn

    def decide(self, request_id: int, pe: str, de: str, reads: tuple[ReadExtent, ...]) -> Decision:
        """Number the decision and book its reads on the nodes' queues."""
        self.decisions += 1
        seq = self.decisions
        for engine in (pe, de):
            self.engines[engine].promises.decide(request_id, seq)
        blocks: dict[str, int] = {}
        for read in reads:
            engine = pe if read.side is Side.PE else de
            blocks[engine] = blocks.get(engine, 0) + read.count - read.cached
        for engine, count in blocks.items():
            if not count:
                continue
            self.engines[engine].node.read(request_id, seq, count * self.spec.block_tokens)
        return Decision(seq, request_id, pe, de, reads)

    def report(self, fetch: Fetch) -> None:
        """Start the group's books again from its reports; all of them, or none on an error."""
        group = self.groups.get(fetch.group)
        if group is None:
            raise SchedulerError(
                f"group {fetch.group!r} fetched, but the cluster has {', '.join(self.groups)}; "
                "correct the group's name"
            )
        # Most engines of a large cluster report what they did last time, and change no book.
        engines, nodes = [], []
        for engine in fetch.engines:
            book = group.books.get(engine.engine)
            if book is None or engine.seen > self.decisions:
                self._refuse(group, group.books, engine.engine, engine.seen)
            if engine != book.last:
                engines.append((book, engine))
        for node in fetch.nodes:
            node_book = group.nodes.get(node.node)
            if node_book is None or node.seen > self.decisions:
                self._refuse(group, group.nodes, node.node, node.seen)
            nodes.append((node_book, node))
        for book, engine in engines:
            book.report(engine)
        for node_book, node in nodes:
            node_book.report(node, fetch.now_s)

    def end(self, request_id: int) -> None:
        """Forget a request, done or failed.

        A second end is no contradiction: several parts of a turn may find the same failure.
        """
        turn = self._turns.pop(request_id, None)
        if turn is None:
            return
        self._without_pe.pop(request_id, None)
        self._without_de.pop(request_id, None)
        for engine in (turn.pe, turn.de):
            if engine is not None:
                book = self.engines[engine]
                book.drop(request_id)
                book.node.drop(request_id)

    def _refuse(self, group: Group, known: Iterable[str], name: str, seen: int) -> NoReturn:
        """Say what is wrong with a report."""
        if name not in known:
            raise SchedulerError(
                f"group {group.name} reported {name!r}, which is not part of it; "
                f"it may report {', '.join(sorted(known))}"
            )
        raise SchedulerError(
            f"{name} reported to have seen decision {seen}, but only {self.decisions} "
            "were made; is it of another run?"
        )

    def _add(self, engine: EngineSpec, order: int) -> None:
        if engine.name in self.engines:
            raise SchedulerError(f"engine {engine.name} is there twice; name each engine once")
        group = self.groups.get(engine.group)
        if group is None:
            by_load = self.groups_by_load[engine.side]
            group = Group(engine.group, engine.side, len(self.groups), by_load)
            self.groups[engine.group] = group
        if group.side is not engine.side:
            raise SchedulerError(
                f"group {engine.group} has PEs and DEs; put {engine.name} into a group of its side"
            )
        node = self.nodes.setdefault(engine.node, NodeBook(engine.node, engine.group))
        book = self.engines[engine.name] = EngineBook(engine, order, node, group)
        group.join(book)
        if node.group != engine.group:
            raise SchedulerError(
                f"node {engine.node} has engines in the groups {node.group} and {engine.group}; "
                "put all engines of a node into one group"
            )


def _natural_order(engine: EngineSpec) -> tuple[tuple[int, int | str], ...]:
    """`p2/1` before `p10/0`: numbers inside a name compare as numbers."""
    parts = re.findall(r"\d+|\D+", engine.name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)
