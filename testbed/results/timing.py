"""Evidence on a run's times: what delayed it, by how much, and how far that is from a doubt.

The limits were chosen from runs on a quiet machine, beside a program that takes one core, and
beside eight; docs/fidelity.md has the table.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from testbed.fabric.wire import MODEL_CLASS
from testbed.results.schema import Sign, Timing
from testbed.worlds.plan import LabPlan
from testbed.worlds.samples import Sample

if TYPE_CHECKING:
    from testbed.results.rundata import RunData

Span = tuple[float, float]  # on the machine's monotonic clock
Told = tuple[Sign, str, str]  # what is the matter in words, and what to change

LATENESS = (0.40, 0.80)  # rates stayed exact up to 67 % in sum, and fell above 86 %
OVERRUNS = (0.25, 0.45)
LATE_TICKS = (0.04, 0.10)
RUN_DELAY = (0.45, 0.70)  # a full machine's own hosts wait for each other, too
OVERSHOOT_S = (0.001, 0.005)  # target seconds
BUSY = (0.88, 0.95)
FOREIGN_WARNING = 0.05
MOST_OF_IT = 0.6  # of all cores: beyond this it counts whatever it delayed
FOREIGN_LIMIT, FOREIGN_CORES = 0.15, 0.3  # of all cores, but never more than 0.3 of one
SHORTFALL = (0.02, 0.05)
PACKET_BYTES = 65_536  # a GSO packet: where a sample begins and ends in it is chance
FEWEST_PACKETS = 50  # of a link's samples: below they say nothing
FEWEST_SLEEPS = 100
NAMED_IN_A_CAUSE = 3
LEAST_FACTOR, MOST_FACTOR = 1.2, 4.0  # by which a larger time scale is proposed for lack of CPU
SHORTEST_SPAN_S = 1.0


def evidence(run: "RunData", window_s: Span) -> Timing | None:
    """What speaks for and against the times of a run with this steady window, in target seconds.

    None for a world without a machine below it.
    """
    samples = run.samples
    if not samples.cores or len(samples.samples) < 2:
        return None
    spans = _spans(run, window_s)
    delays = _run_delays(samples.samples, spans)
    busy, foreign, stolen = _cpu(samples.samples, samples.cores, spans)
    overshoot_s, longest_s = _overshoot(run, spans)
    goodput, shortfall = _goodput(run)
    drops = {link: found for link, found in samples.dropped.items() if any(found.values())}
    felt = {
        "lateness": Sign(_lateness(run, spans), *LATENESS),
        "overruns": Sign(_overruns(run), *OVERRUNS),
        "late_ticks": Sign(_late_ticks(run), *LATE_TICKS),
        "run_delay": Sign(max(delays.values(), default=0.0), *RUN_DELAY),
        "overshoot_p99_s": Sign(overshoot_s, *OVERSHOOT_S),
    }
    found = Timing(
        cores=samples.cores,
        **felt,
        busy=Sign(busy, *BUSY),
        foreign=Sign(foreign, FOREIGN_WARNING, foreign_limit(samples.cores)),
        shortfall=Sign(shortfall, *SHORTFALL),
        model_drops=Sign(sum(each.get(MODEL_CLASS, 0) for each in drops.values()), 0, 0),
        delayed=any(sign.value > sign.warning for sign in felt.values()),
        overshoot_max_s=longest_s,
        stolen_share=stolen,
        run_delays=delays,
        goodput=goodput,
        drops=drops,
        others=run.others,
        notes=(),
    )
    notes = [text for _, text, doubt in _told(found, run.plan) if not doubt]
    return msgspec.structs.replace(found, notes=tuple(notes))


def doubts(timing: Timing, plan: LabPlan) -> list[str]:
    """What makes the times inconclusive: each cause, and what to change."""
    return [f"{text}; {remedy}" for remedy, text, doubt in _told(timing, plan) if doubt]


def foreign_limit(cores: int) -> float:
    """The share of so many cores that others may use before it counts."""
    return min(FOREIGN_LIMIT, FOREIGN_CORES / cores)


def _spans(run: "RunData", window_s: Span) -> list[Span]:
    """The whole run, and its steady window if it has one long enough to tell."""
    samples, scale = run.samples, run.plan.world.time_scale
    first, last = samples.samples[0].at_monotonic_s, samples.samples[-1].at_monotonic_s
    begin_s, end_s = (samples.start_monotonic_s + edge * scale for edge in window_s)
    spans = [(first, max(last, first + 1e-9))]
    if window_s[0] > 0 and end_s - begin_s >= SHORTEST_SPAN_S:
        spans.append((begin_s, end_s))
    return spans


def _rate(samples: Sequence[Sample], values: Sequence[float], span: Span) -> float:
    """What a counter grew by in a span, a second; it has a value for each sample."""
    before, after = np.interp(span, [sample.at_monotonic_s for sample in samples], values)
    return float(after - before) / (span[1] - span[0])


def _cpu(
    samples: Sequence[Sample], cores: int, spans: Sequence[Span]
) -> tuple[float, float, float]:
    """Shares of the cores: used by anybody, used by others, and stolen by a hypervisor."""
    busy, foreign, stolen = (
        max(_rate(samples, values, span) / cores for span in spans)
        for values in (
            [one.busy_s for one in samples],
            [one.busy_s - one.own_s for one in samples],
            [one.steal_s for one in samples],
        )
    )
    return busy, max(0.0, foreign), stolen


def _run_delays(samples: Sequence[Sample], spans: Sequence[Span]) -> dict[str, float]:
    """The share of time that each host was runnable and had no CPU."""
    found = {}
    for host in sorted({name for sample in samples for name in sample.delays_s}):
        # A host that has ended waits no longer.
        waits_s = list(accumulate((one.delays_s.get(host, 0.0) for one in samples), max))
        found[host] = max(_rate(samples, waits_s, span) for span in spans)
    return found


def _overshoot(run: "RunData", spans: Sequence[Span]) -> tuple[float, float]:
    """How late a sleeper of 1 ms woke up, in target seconds: the 99th percentile, and the worst."""
    scale = run.plan.world.time_scale
    worst = longest = 0.0
    for begin_s, end_s in spans:
        late_us = [
            late
            for row in run.samples.sleeps
            if begin_s <= row.at_monotonic_s <= end_s
            for late in row.overshoots_us
        ]
        if len(late_us) >= FEWEST_SLEEPS:
            worst = max(worst, float(np.percentile(late_us, 99)))
            longest = max(longest, max(late_us))
    return worst / 1e6 / scale, longest / 1e6 / scale


def _lateness(run: "RunData", spans: Sequence[Span]) -> float:
    """How late one prefill host's layers were in sum, over the time; of the worst."""
    start_s, scale = run.samples.start_monotonic_s, run.plan.world.time_scale
    return max(
        (
            sum(late_s for due_s, late_s in account.late if begin <= start_s + due_s * scale <= end)
            * scale
            / (end - begin)
            for account in run.accounts.values()
            if account.forwards
            for begin, end in spans
        ),
        default=0.0,
    )


def _overruns(run: "RunData") -> float:
    computes = [one.compute for one in run.accounts.values() if one.forwards and one.compute]
    return _most_of((one["overruns"], one["calls"]) for one in computes)


def _late_ticks(run: "RunData") -> float:
    counts = [one.counts for one in run.accounts.values() if "ticks" in one.counts]
    return _most_of((one["late_ticks"], one["ticks"]) for one in counts)


def _most_of(parts: Iterable[tuple[float, float]]) -> float:
    return max((part / whole for part, whole in parts if whole), default=0.0)


def _goodput(run: "RunData") -> tuple[dict[str, float], float]:
    """Of links that surely had work: the share of their rate, and what the worst one lacked.

    Of each sample one packet may be missing by chance, and chance adds up by the root.
    """
    samples: dict[str, list[tuple[int, float]]] = {}
    for one in run.samples.backlogged:
        samples.setdefault(one.link, []).append((one.wire_bytes, one.nominal_bytes))
    goodput, shortfall = {}, 0.0
    for link, found in sorted(samples.items()):
        carried, nominal = sum(sent for sent, _ in found), sum(most for _, most in found)
        if nominal >= FEWEST_PACKETS * PACKET_BYTES:
            goodput[link] = carried / nominal
            chance = PACKET_BYTES * len(found) ** 0.5 / nominal
            shortfall = max(shortfall, 1 - goodput[link] - chance)
    return goodput, shortfall


def _told(timing: Timing, plan: LabPlan) -> Iterator[tuple[str, str, bool]]:
    """Of each sign above its warning: the remedy, what is the matter, and whether it is a doubt."""
    for sign, text, remedy in (*_delays_told(timing, plan), *_links_told(timing)):
        if sign.value > sign.warning:
            yield remedy, text, sign.value > sign.limit
    # Most of a machine that somebody else uses is not believed to have had no effect, whatever the
    # signs of it say: short work that sleeps often is let in before theirs.
    counts = timing.delayed or timing.foreign.value > MOST_OF_IT
    after = "" if timing.delayed else ", which delayed nothing that shows"
    for sign, text, remedy in _cpu_told(timing, plan):
        if sign.value > sign.warning:
            yield remedy, f"{text}{after}", sign.value > sign.limit and counts


def _delays_told(timing: Timing, plan: LabPlan) -> list[Told]:
    late, over, ticks = timing.lateness, timing.overruns, timing.late_ticks
    delay, overshoot = timing.run_delay, timing.overshoot_p99_s
    worst = max(timing.run_delays, key=timing.run_delays.__getitem__, default="")
    remedy = _slower(timing, plan)
    return [
        (late, f"prefill layers were {late.value:.0%} of the time late in sum", remedy),
        (over, f"{over.value:.0%} of layers took longer than the model allows", remedy),
        (ticks, f"{ticks.value:.0%} of decode ticks came a whole period late", remedy),
        (delay, f"{worst} could have run but had no CPU {delay.value:.0%} of the time", remedy),
        (
            overshoot,
            f"one in a hundred sleeps of 1 ms ended {1000 * overshoot.value:.1f} ms late or later, "
            "in target time",
            remedy,
        ),
    ]


def _cpu_told(timing: Timing, plan: LabPlan) -> list[Told]:
    foreign, busy, cores = timing.foreign, timing.busy, timing.cores
    others = foreign.value > busy.value / 2
    return [
        (foreign, f"other programs used {foreign.value:.0%} of the {cores} cores", _end(timing)),
        (
            busy,
            f"the {cores} cores were {busy.value:.0%} busy",
            "end the other programs" if others else _slower(timing, plan),
        ),
    ]


def _links_told(timing: Timing) -> list[Told]:
    worst = min(timing.goodput, key=timing.goodput.__getitem__, default="")
    dropped = [link for link, classes in timing.drops.items() if classes.get(MODEL_CLASS)]
    return [
        (
            timing.shortfall,
            f"{worst} lacked {timing.shortfall.value:.1%} of its rate while its queue was not "
            "empty once",
            "set a larger scale.time_scale, which makes links slower",
        ),
        (
            timing.model_drops,
            f"{timing.model_drops.value:.0f} packets of class MODEL were dropped "
            f"({', '.join(dropped)})",
            "set a larger scale.time_scale, or put fewer nodes into a group",
        ),
    ]


def _slower(timing: Timing, plan: LabPlan) -> str:
    """The same work in more time, or less of it: the scale at which it would have been enough.

    Sums of delays stay about what they are, a time that is longer for all makes them a smaller
    share of it.
    """
    room = timing.busy.limit - timing.foreign.value
    own = timing.busy.value - timing.foreign.value
    shares = [one.value / one.limit for one in (timing.lateness, timing.run_delay)]
    overshoot = timing.overshoot_p99_s.value / timing.overshoot_p99_s.limit
    cores = own / room if room > own / MOST_FACTOR else MOST_FACTOR
    factor = max(LEAST_FACTOR, *shares, min(overshoot, MOST_FACTOR), cores)
    wires, scale = plan.wires, ceil(10 * factor * plan.world.time_scale) / 10
    smaller = ", or use fewer nodes" if wires.prefill_nodes + wires.decode_nodes > 2 else ""
    if not wires.folded and wires.gpus_per_node > 1:
        smaller = ", or cluster.folded to true"
    end = "end the other programs, or " if timing.foreign.value > timing.foreign.warning else ""
    return f"{end}set scale.time_scale to {scale:g}{smaller}"


def _end(timing: Timing) -> str:
    if timing.stolen_share > timing.foreign.value / 2:
        return "the hypervisor gave them to other machines: run it again, or elsewhere"
    who = [
        f"{one.name} (process {one.pid}, {one.cpu_s:.1f} s of CPU)"
        for one in timing.others[:NAMED_IN_A_CAUSE]
    ]
    most = f"most by {', '.join(who)}: " if who else ""
    return f"{most}run it again when they have ended"
