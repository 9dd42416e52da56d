"""How fast the scheduler decides: `scripts/bench scheduler`.

One core, made-up engines in a closed loop, and no clock: events are given by hand. A complete
assignment is one request's `Arrived`, its share of the fetches with all their reports, its
placement on a PE and a DE and its read path, and its `Ended`. Only `Scheduler.handle` is timed.
"""

import gc
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import log
from random import Random
from typing import NamedTuple

from scheduler.books import EngineBook
from scheduler.cluster import Cluster
from scheduler.decode import HIGH_FACTOR
from scheduler.lookup import lookup
from scheduler.policies.dualpath import DualPath
from scheduler.policy import Placement, Policy
from scheduler.scheduler import Scheduler
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
    Request,
    Side,
)
from testbed.bench.table import Bench

Report = EngineReport | NodeReport

# What topologies/48p96d.yaml comes to: 48,000 agents, 1,600 turns a second, a fetch in 0.1 s.
AGENTS_AN_ENGINE = 48_000 / 1_152
TURN_PERIODS, PREFILL_PERIODS, READ_PERIODS = 300, 50, 30
BLOCK_TOKENS, HBM_TOKENS = 64, 4_000_000
ALPHA_TOKENS, BETA_TOKENS = 1_200_000, 1_400_000
SHAPES = ((1, 2, 6), (3, 6, 8), (12, 24, 8), (48, 96, 8))  # PE nodes, DE nodes, GPUs a node
PERIODS, REPEATS = 10, 20
# `least-loaded` looks at every engine for each request, as simple routers do: nothing is claimed.
LEAST_PER_S = {"dualpath": 20_000, "basic": 20_000, "least-loaded": None}


class Cost(NamedTuple):
    """Seconds of one assignment, and the fetches and reports that came with it."""

    assignment_s: float
    fetches: float
    changed_reports: float
    same_reports: float


class Scan(DualPath):
    """The same rules, for one group a side, as plain scans: every set is formed anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[Side, deque[Request]] = {side: deque() for side in Side}

    def arrived(self, cluster: Cluster, request: Request) -> Iterator[Placement]:
        """Queue it for both sides."""
        for line in self._lines.values():
            line.append(request)
        yield from ()

    def fetch(self, cluster: Cluster, group: str) -> Iterator[Placement]:
        """Sections 6.2 and 6.3 of the paper, line by line."""
        fetching = cluster.groups[group]
        line, engines = self._lines[fetching.side], fetching.engines
        if fetching.side is Side.PE:
            choose = self._pe
        else:
            fitting = _fitting(cluster, line, sum(e.free_hbm_tokens for e in engines))
            total = fitting + sum(engine.tokens for engine in engines)
            choose = partial(self._de, high_tokens=HIGH_FACTOR * total / len(engines))
        while line and (best := choose(cluster, engines, line[0])) is not None:
            yield Placement(line.popleft().id, best.name)

    def _pe(
        self, cluster: Cluster, engines: Sequence[EngineBook], request: Request
    ) -> EngineBook | None:
        spec = cluster.spec
        normal = [e for e in engines if e.tokens <= spec.beta_tokens]
        short = [e for e in normal if e.node.read_queue_tokens <= spec.alpha_tokens]
        return min(short or normal, key=lambda e: (e.tokens, e.requests, e.order), default=None)

    def _de(
        self, cluster: Cluster, engines: Sequence[EngineBook], request: Request, high_tokens: float
    ) -> EngineBook | None:
        roomy = [e for e in engines if e.free_hbm_tokens >= cluster.hbm_tokens(request)]
        normal = [e for e in roomy if e.tokens + request.context_tokens <= high_tokens]
        if normal:
            return min(normal, key=lambda e: (e.requests, e.tokens, e.order))
        return min(roomy, key=lambda e: (e.tokens, e.requests, e.order), default=None)


def _fitting(cluster: Cluster, line: Iterable[Request], free_tokens: int) -> int:
    """Tokens of the line's head that would fit if all free HBM were in one piece."""
    total = 0
    for request in line:
        free_tokens -= cluster.hbm_tokens(request)
        if free_tokens < 0:
            break
        total += request.context_tokens
    return total


class Engines:
    """Engines that do nothing but count: what they report is right, and one period late."""

    def __init__(self, spec: ClusterSpec, agents: int) -> None:
        self._spec = spec
        self._random = Random(1)
        self._groups: dict[str, tuple[list[EngineSpec], list[str]]] = {}
        for engine in spec.engines:
            members, nodes = self._groups.setdefault(engine.group, ([], []))
            members.append(engine)
            if engine.node not in nodes:
                nodes.append(engine.node)
        self._requests: dict[str, int] = defaultdict(int)
        self._tokens: dict[str, int] = defaultdict(int)
        self._queues: dict[str, int] = defaultdict(int)
        self._live: dict[int, Request] = {}
        self._decided: dict[int, Decision] = {}
        self._due: dict[int, list[tuple[str, int]]] = defaultdict(list)
        self._last: dict[str, Report] = {}
        self._seen: dict[str, int] = defaultdict(int)  # by node: what its hosts were assigned last
        self._at = self._turns = self._come = 0
        self._agents_left = agents
        self._agents_a_period = agents / TURN_PERIODS
        self.fetches = self.changed = self.same = 0

    def period(self) -> list[Event]:
        """What one period brings: ends, a next turn for each, and every group's fetch."""
        self._at += 1
        events: list[Event] = []
        # Agents come in the time of one turn, and stay.
        begin = min(self._agents_left, round(self._agents_a_period * self._at) - self._come)
        self._agents_left -= begin
        self._come += begin
        for what, number in self._due.pop(self._at, ()):
            if what == "end":
                events.append(Ended(0.0, number))
                begin += 1
            self._pass(what, number)
        events += [Arrived(0.0, self._request()) for _ in range(begin)]
        events += [self._fetch(group) for group in self._groups]
        self.fetches += len(self._groups)
        return events

    def take(self, decisions: list[Decision]) -> None:
        """Serve what was decided, from the next period on."""
        for decision in decisions:
            number, request = decision.request_id, self._live[decision.request_id]
            self._decided[number] = decision
            self._count(decision.pe, 1, request.prompt_tokens)
            self._count(decision.de, 1, request.context_tokens)
            self._queues[self._reader(decision)] += request.hit_tokens
            for what, periods in (
                ("read", READ_PERIODS), ("prefilled", PREFILL_PERIODS), ("end", TURN_PERIODS),
            ):  # fmt: skip
                jitter = self._random.randrange(-periods // 4, periods // 4)
                self._due[self._at + periods + jitter].append((what, number))
            for engine in (decision.pe, decision.de):
                self._seen[engine.split("/")[0]] = decision.seq

    def reset(self) -> None:
        """Count fetches and reports from here on."""
        self.fetches = self.changed = self.same = 0

    def _request(self) -> Request:
        self._turns += 1
        hit = BLOCK_TOKENS * self._random.randrange(300, 700)
        request = Request(self._turns, 0, 0, hit + 430, hit, 176)
        self._live[request.id] = request
        return request

    def _pass(self, what: str, number: int) -> None:
        decision, request = self._decided[number], self._live[number]
        match what:
            case "read":
                self._queues[self._reader(decision)] -= request.hit_tokens
            case "prefilled":
                self._count(decision.pe, -1, -request.prompt_tokens)
            case "end":
                self._count(decision.de, -1, -request.context_tokens)
                del self._decided[number], self._live[number]

    def _count(self, engine: str, requests: int, tokens: int) -> None:
        self._requests[engine] += requests
        self._tokens[engine] += tokens

    def _reader(self, decision: Decision) -> str:
        engine = decision.pe if decision.reads[0].side is Side.PE else decision.de
        return engine.split("/")[0]

    def _fetch(self, group: str) -> Fetch:
        members, nodes = self._groups[group]
        reports = tuple(self._report(engine) for engine in members)
        queues = tuple(NodeReport(node, self._queues[node], self._seen[node]) for node in nodes)
        said: list[tuple[str, Report]] = [(report.engine, report) for report in reports]
        for name, report in (*said, *((queue.node, queue) for queue in queues)):
            same = self._last.get(name) == report
            self._last[name] = report
            self.same += same
            self.changed += not same
        return Fetch(0.0, group, reports, queues)

    def _report(self, engine: EngineSpec) -> EngineReport:
        tokens = self._tokens[engine.name]
        free = HBM_TOKENS - tokens if engine.side is Side.DE else HBM_TOKENS
        requests, seen = self._requests[engine.name], self._seen[engine.node]
        return EngineReport(engine.name, requests, tokens, free, seen)


def cluster(prefill: int, decode: int, gpus: int, pooled: bool) -> ClusterSpec:
    """A group a node, or with `pooled` one a side."""
    engines = [
        EngineSpec(f"{side}{node}/{gpu}", side, f"{side}{node}",
                   f"{side}-group{0 if pooled else node}", HBM_TOKENS)
        for side, nodes in ((Side.PE, prefill), (Side.DE, decode))
        for node in range(nodes)
        for gpu in range(gpus)
    ]  # fmt: skip
    return ClusterSpec(tuple(engines), BLOCK_TOKENS, ALPHA_TOKENS, BETA_TOKENS)


def measure(spec: ClusterSpec, policy: Policy) -> Cost:
    """The best of some repeats, once every agent has a turn under way: the machine is shared."""
    engines = Engines(spec, round(AGENTS_AN_ENGINE * len(spec.engines)))
    scheduler = Scheduler(spec, policy)
    with _rare_collections():
        for _ in range(TURN_PERIODS + TURN_PERIODS // 4):
            _, decisions = _timed(scheduler, engines.period())
            engines.take(decisions)
        engines.reset()
        count, best_s = 0, float("inf")
        # Small clusters decide little in a period: as many decisions for all of them.
        periods = PERIODS * max(1, round(1_152 / len(spec.engines)))
        for _ in range(REPEATS):
            spent_s, done = 0.0, 0
            for _ in range(periods):
                took_s, decisions = _timed(scheduler, engines.period())
                engines.take(decisions)
                spent_s += took_s
                done += len(decisions)
            best_s = min(best_s, spent_s / done)
            count += done
    return Cost(best_s, engines.fetches / count, engines.changed / count, engines.same / count)


def reports_per_s(spec: ClusterSpec, same: bool) -> float:
    """Reports of engines and nodes a second, in fetches for which nothing waits."""
    scheduler = Scheduler(spec, DualPath())
    engines = Engines(spec, 0)
    fetches = [event for event in engines.period() if isinstance(event, Fetch)]
    reports = sum(len(fetch.engines) + len(fetch.nodes) for fetch in fetches)
    best_s = float("inf")
    with _rare_collections():
        for number in range(REPEATS):
            if not same:
                fetches = [_one_more(fetch, number) for fetch in fetches]
            took_s, _ = _timed(scheduler, fetches)
            best_s = min(best_s, took_s)
    return reports / best_s


def claims(bench: Bench) -> None:
    """All that is said about the speed of decisions."""
    largest = cluster(*SHAPES[-1], pooled=False)
    for name, least_per_s in LEAST_PER_S.items():
        _rate(bench, name, measure(largest, lookup(name)), least_per_s)
    for pooled, what in ((False, "a group a node"), (True, "one group a side")):
        _growth(bench, what, pooled)
    pool = cluster(*SHAPES[-1], pooled=True)
    scan, heap = measure(pool, Scan()), measure(pool, DualPath())
    bench.claim("1,152 engines, one group a side: us an assignment by scans of all engines",
          1e6 * scan.assignment_s, "", None)  # fmt: skip
    bench.claim("the same: scans over dualpath", scan.assignment_s / heap.assignment_s, "", None)
    for same, what in ((True, "unchanged"), (False, "changed")):
        bench.claim(f"1,152 engines: millions of {what} reports a second",
              reports_per_s(largest, same) / 1e6, "", None)  # fmt: skip


def _rate(bench: Bench, name: str, cost: Cost, least_per_s: int | None) -> None:
    rate = 1 / cost.assignment_s
    wanted = "" if least_per_s is None else f">= {least_per_s}"
    bench.claim(
        f"1,152 engines, 48,000 agents, {name}: assignments a second, each with "
        f"{cost.fetches:.2f} fetches of {cost.changed_reports:.1f} changed and "
        f"{cost.same_reports:.1f} unchanged reports",
        rate, wanted, None if least_per_s is None else rate >= least_per_s,
    )  # fmt: skip


def _growth(bench: Bench, what: str, pooled: bool) -> None:
    costs = {}
    for shape in SHAPES:
        spec = cluster(*shape, pooled)
        costs[len(spec.engines)] = measure(spec, DualPath()).assignment_s
    first = min(costs)
    for engines, cost_s in costs.items():
        bench.claim(f"{what}, {engines:,} engines: us an assignment", 1e6 * cost_s, "", None)
    for engines, cost_s in costs.items():
        if engines != first:
            growth = cost_s / costs[first] / (log(engines) / log(first))
            bench.claim(f"{what}: growth of that cost from {first} to {engines:,} engines over "
                        "that of log n", growth, "<= 1", growth <= 1)  # fmt: skip


def _timed(scheduler: Scheduler, events: Sequence[Event]) -> tuple[float, list[Decision]]:
    """CPU time, so that others on this machine cost us their caches only, and not their turns."""
    decisions: list[Decision] = []
    began_s = time.process_time()
    for event in events:
        decisions += scheduler.handle(event)
    return time.process_time() - began_s, decisions


def _one_more(fetch: Fetch, requests: int) -> Fetch:
    """The same group, each of its engines with another number of requests and tokens."""
    engines = tuple(
        EngineReport(e.engine, requests, 100 * requests, e.free_hbm_tokens - requests, e.seen)
        for e in fetch.engines
    )
    nodes = tuple(NodeReport(n.node, 100 * requests, n.seen) for n in fetch.nodes)
    return Fetch(fetch.now_s, fetch.group, engines, nodes)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """As the hosts themselves run."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
