"""The scheduler's rules, written out: every sum is taken anew, every set is a full scan.

Slow, and plain enough to be compared with the paper line by line. It knows no contradictions.
"""

from dataclasses import dataclass, field

from scheduler.types import (
    Arrived,
    ClusterSpec,
    Decision,
    Ended,
    EngineReport,
    EngineSpec,
    Event,
    Fetch,
    NodeReport,
    ReadExtent,
    Request,
    Side,
)

PUSHED = ("basic", "turns", "static", "least")


@dataclass
class Turn:
    """A live request; its place in a queue is that in `LiteralScheduler.turns`."""

    request: Request
    private: str | None = None
    placed: dict[Side, EngineSpec] = field(default_factory=dict)
    seq: int | None = None
    reads_on: str | None = None


class LiteralScheduler:
    """`how` is whose NIC reads: `shorter` queue, `pe`, `de`, or `split`.

    Those of PUSHED also place at the arrival.
    """

    def __init__(self, spec: ClusterSpec, how: str) -> None:
        self.spec, self.how = spec, how
        self.engines = list(spec.engines)  # natural order is that of the examples
        self.de_groups = list(dict.fromkeys(e.group for e in self.on(Side.DE)))
        self.turns: dict[int, Turn] = {}
        self.engine_reports: dict[str, EngineReport] = {}
        self.node_reports: dict[str, NodeReport] = {}
        self.counted_s: dict[str, float] = {}
        self.given: dict[str, int] = {}
        self.reads_of: dict[str, int] = {}
        self.arrivals = self.seq = self.number = 0
        self.now_s = 0.0

    def handle(self, event: Event) -> list[Decision]:
        self.now_s = event.now_s
        match event:
            case Arrived():
                return self.arrive(event.request)
            case Fetch():
                self.engine_reports |= {report.engine: report for report in event.engines}
                self.node_reports |= {report.node: report for report in event.nodes}
                self.counted_s |= {
                    report.node: event.now_s if report.at_s is None else report.at_s
                    for report in event.nodes
                }
                if self.how in PUSHED:
                    return []
                prefill = event.group not in self.de_groups
                return self.prefill(event.group) if prefill else self.decode(event.group)
            case Ended():
                self.turns.pop(event.request_id, None)
                return []

    # The books: the last report, and what it has not seen.

    def on(self, side: Side, group: str | None = None) -> list[EngineSpec]:
        return [e for e in self.engines if e.side is side and group in (None, e.group)]

    def missed(self, engine: EngineSpec) -> list[Request]:
        report = self.engine_reports.get(engine.name)
        seen = report.seen if report else 0
        mine = [turn for turn in self.turns.values() if turn.placed.get(engine.side) is engine]
        return [turn.request for turn in mine if turn.seq is None or turn.seq > seen]

    def requests(self, engine: EngineSpec) -> int:
        report = self.engine_reports.get(engine.name)
        return (report.requests if report else 0) + len(self.missed(engine))

    def tokens(self, engine: EngineSpec) -> int:
        report = self.engine_reports.get(engine.name)
        weigh = (lambda r: r.prompt_tokens) if engine.side is Side.PE else context
        return (report.tokens if report else 0) + sum(map(weigh, self.missed(engine)))

    def free(self, engine: EngineSpec) -> int:
        report = self.engine_reports.get(engine.name)
        return (report.free_hbm_tokens if report else engine.hbm_tokens) - sum(
            self.hbm(request) for request in self.missed(engine)
        )

    def read_queue(self, node: str) -> int:
        report = self.node_reports.get(node)
        queued, seen = (report.read_queue_tokens, report.seen) if report else (0, 0)
        mine = [turn for turn in self.turns.values() if turn.reads_on == node]
        return queued + sum(t.request.hit_tokens for t in mine if t.seq and t.seq > seen)

    def left(self, node: str) -> float:
        """The queue, and 300 of the examples' tokens less for each second of its report's age."""
        age_s = self.now_s - self.counted_s.get(node, 0.0)
        return max(0.0, self.read_queue(node) - age_s * 300)

    def hbm(self, request: Request) -> int:
        return -(-context(request) // self.spec.block_tokens) * self.spec.block_tokens

    # The choices.

    def arrive(self, request: Request) -> list[Decision]:
        turn = self.turns[request.id] = Turn(request)
        if self.how not in PUSHED:
            return []
        self.number = request.agent if self.how == "static" else self.arrivals
        self.arrivals += 1
        for side in Side:
            engines = self.on(side)
            if self.how == "least":
                turn.placed[side] = min(engines, key=lambda e: (self.tokens(e), self.requests(e)))
            else:
                turn.placed[side] = engines[self.number % len(engines)]
        return self.decide(turn)

    def prefill(self, group: str) -> list[Decision]:
        """Algorithm 1."""
        decisions = []
        for turn in self.turns.values():
            if Side.PE in turn.placed:
                continue
            alpha, beta = self.spec.alpha_tokens, self.spec.beta_tokens
            engines = self.on(Side.PE, group)
            c2 = [e for e in engines if self.read_queue(e.node) <= alpha and self.tokens(e) <= beta]
            c3 = [e for e in engines if self.read_queue(e.node) > alpha and self.tokens(e) <= beta]
            if not c2 and not c3:
                break
            turn.placed[Side.PE] = min(c2 or c3, key=lambda e: (self.tokens(e), self.requests(e)))
            decisions += self.decide(turn)
        return decisions

    def decode(self, group: str) -> list[Decision]:
        """First every group's private queue, then the engines of the group that fetches."""
        for turn in self.turns.values():
            if turn.private is None:
                turn.private = min(self.de_groups, key=self.load)
        engines, fitting = self.on(Side.DE, group), []
        room = sum(max(0, self.free(engine)) for engine in engines)
        for turn in self.queue(group):
            room -= self.hbm(turn.request)
            if room < 0:
                break
            fitting.append(turn)
        total = sum(context(turn.request) for turn in fitting) + sum(map(self.tokens, engines))
        z = 1.05 * total / len(engines)
        decisions = []
        for turn in fitting:
            needed, length = self.hbm(turn.request), context(turn.request)
            roomy = [engine for engine in engines if self.free(engine) >= needed]
            normal = [engine for engine in roomy if self.tokens(engine) + length <= z]
            if not roomy:
                break
            turn.placed[Side.DE] = (
                min(normal, key=lambda e: (self.requests(e), self.tokens(e)))
                if normal
                else min(roomy, key=lambda e: (self.tokens(e), self.requests(e)))
            )
            decisions += self.decide(turn)
        return decisions

    def queue(self, group: str) -> list[Turn]:
        turns = self.turns.values()
        return [t for t in turns if t.private == group and Side.DE not in t.placed]

    def load(self, group: str) -> int:
        waiting = sum(context(turn.request) for turn in self.queue(group))
        return waiting + sum(map(self.tokens, self.on(Side.DE, group)))

    def decide(self, turn: Turn) -> list[Decision]:
        """Once both sides are known: who reads, and the decision's number."""
        if len(turn.placed) < 2:
            return []
        pe, de = turn.placed[Side.PE], turn.placed[Side.DE]
        side = self.side(pe.node, de.node)
        self.seq += 1
        turn.seq = self.seq
        reads: tuple[ReadExtent, ...] = ()
        if turn.request.hit_tokens:
            turn.reads_on = node = pe.node if side is Side.PE else de.node
            self.given[node] = self.given.get(node, 0) + turn.request.hit_tokens
            self.reads_of[node] = self.reads_of.get(node, 0) + 1
            reads = (ReadExtent(side, 0, turn.request.hit_tokens // self.spec.block_tokens),)
        return [Decision(self.seq, turn.request.id, pe.name, de.name, reads)]

    def side(self, pe: str, de: str) -> Side:
        match self.how:
            case "basic" | "pe":
                return Side.PE
            case "de":
                return Side.DE
            case "turns" | "static":
                pairs = {
                    (n % len(self.on(Side.PE)), n % len(self.on(Side.DE)))
                    for n in range(len(self.on(Side.PE)) * len(self.on(Side.DE)))
                }
                rounds = self.number // len(pairs)
                return Side.PE if (rounds + self.number % len(pairs)) % 2 == 0 else Side.DE
            case "split":
                fewer = self.reads_of.get(pe, 0) <= self.reads_of.get(de, 0)
                return Side.PE if fewer else Side.DE
        if self.left(pe) == self.left(de):
            return Side.PE if self.given.get(pe, 0) <= self.given.get(de, 0) else Side.DE
        return Side.PE if self.left(pe) < self.left(de) else Side.DE


def context(request: Request) -> int:
    return request.prompt_tokens + request.generate_tokens
