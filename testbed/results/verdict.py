"""Two verdicts of a run on itself: is it right, and are its times those of the modelled cluster?

The timing thresholds come from runs with a stolen core: rates stayed exact up to 60 % of summed
lateness per window and fell above 100 %.
"""

from collections.abc import Sequence

from engines.config import DecodeConfig, PrefillConfig
from testbed.results.classes import astray
from testbed.results.metrics import RunData
from testbed.results.schema import PolicyResult, Verdict
from testbed.worlds.plan import LOOPBACK

PASSED, FAILED, FAITHFUL, INCONCLUSIVE = "passed", "failed", "faithful", "inconclusive"

LATENESS_LIMIT = 0.60  # summed lateness of the prefill engines over the window
OVERRUN_LIMIT = 0.45  # share of layers that took longer than the model allows
LATE_TICK_LIMIT = 0.05  # share of decode ticks late by a whole period
FOREIGN_LIMIT = 0.25  # of the machine's cores, used by others
BUSY_LIMIT = 0.92  # of the machine's cores, used by anybody
NO_HOLE_LIMIT = 0.05  # waits for contiguous room, a turn
DELAY_LIMIT = 0.40  # of the run, that a host was runnable without a CPU
ABOVE_BOUND_LIMIT = 1.03  # throughput over what the scarcest resource allows
LEDGER_LIMIT = 0.01  # of a port whose flows are of the order of H
UNSHAPED = "loopback: links are not shaped, so times mean nothing here"
LEDGER_FRAME_BYTES = 4096  # a turn's frames, notes and acknowledgements on one port


def judge(run: RunData, result: PolicyResult, cores: int) -> Verdict:
    """Both verdicts on one policy's run."""
    wrong = _functional(run, result)
    doubts = [UNSHAPED] if run.plan.fabric == LOOPBACK else _timing(run, result, cores)
    unseen = _unchecked(run, result)
    return Verdict(
        FAILED if wrong else INCONCLUSIVE if unseen else PASSED,
        INCONCLUSIVE if doubts else FAITHFUL,
        (*wrong, *unseen, *doubts),
    )


def join(verdicts: dict[str, Verdict]) -> Verdict:
    """The verdict on a comparison: as good as its worst run."""
    causes = [f"{name}: {cause}" for name, v in verdicts.items() for cause in v.causes]
    functional = [verdict.functional for verdict in verdicts.values()]
    timing = [verdict.timing for verdict in verdicts.values()]
    return Verdict(
        next(word for word in (FAILED, INCONCLUSIVE, PASSED) if word in functional),
        INCONCLUSIVE if INCONCLUSIVE in timing else FAITHFUL,
        tuple(causes),
    )


def _functional(run: RunData, result: PolicyResult) -> list[str]:
    causes = []
    if result.failed_turns:
        causes.append(f"{result.failed_turns} turns did not complete: {result.failures}")
    if result.tokens_equal != result.tokens_checked:
        wrong = result.tokens_checked - result.tokens_equal
        causes.append(f"{wrong} of {result.tokens_checked} tokens differ from the reference")
    if len(run.truths) != result.completed_turns:
        causes.append(f"{len(run.truths)} turns were checked, {result.completed_turns} completed")
    if result.kv_equal != result.kv_checked:
        causes.append(f"KV differs in {result.kv_checked - result.kv_equal} sampled turns")
    if not result.failed_turns and _kv_is_counted_apart(run):
        causes += _ledger(result, run.plan.fabric == LOOPBACK)
    return causes + _classes(run, result) + astray(run)


def _unchecked(run: RunData, result: PolicyResult) -> list[str]:
    """A run that generated no token has shown none to be right."""
    if result.tokens_checked or not result.completed_turns:
        return []
    scale = run.plan.world.layout.token_scale
    return [
        f"no turn generated a token that could be checked; one stands for {scale}: generate more, "
        "or set a smaller scale.token_scale"
    ]


def _kv_is_counted_apart(run: RunData) -> bool:
    """Without classes, collectives count as KV: then only groups of one leave a ledger of KV.

    Transports tell classes apart even so.
    """
    if run.plan.fabric == LOOPBACK:
        return True
    roles = [host.role for host in run.plan.hosts]
    groups = [role.group for role in roles if isinstance(role, PrefillConfig | DecodeConfig)]
    return run.plan.wires.qos or all(len(group.engines) == 1 for group in groups)


def _ledger(result: PolicyResult, exact: bool) -> list[str]:
    """Ports of the order of H must match within 1 %; small flows within their frames.

    What a kernel sent once more may have crossed any port twice, but never makes it carry less.
    Transports count payload alone: what they counted must be `exact`.
    """
    causes = []
    for line in result.ledger:
        allowed = max(
            LEDGER_LIMIT * line.expected_bytes, LEDGER_FRAME_BYTES * result.completed_turns
        )
        if exact:
            allowed = 0
        excess = line.counted_bytes - line.expected_bytes
        if not -allowed <= excess <= allowed + result.retransmitted_bytes:
            causes.append(
                f"{line.port} carried {line.counted_bytes} payload bytes where the closed form "
                f"says {line.expected_bytes}"
            )
    return causes


def _classes(run: RunData, result: PolicyResult) -> list[str]:
    """KV may only travel in the KV class; what else is there is small."""
    if not run.plan.wires.qos:
        return []
    causes = []
    by_port = {line.port: line.expected_bytes for line in result.ledger}
    for link, classes in run.samples.class_bytes.items():
        host, nic = link[:-1].split(":")
        expected = by_port.get(f"{host}:{nic}:{'tx' if link.endswith('>') else 'rx'}", 0)
        if classes.get("1:20", 0) < expected:
            causes.append(
                f"{link}: {classes.get('1:20', 0)} bytes left in the KV class, "
                f"{expected} bytes of KV did"
            )
    return causes


def _timing(run: RunData, result: PolicyResult, cores: int) -> list[str]:
    causes = []
    window_s = result.window_s[1] - result.window_s[0]
    if result.window_s[0] == 0:
        causes.append("no steady state was reached; give the workload more agents or turns")
    above = result.throughput_turns_per_s / result.bound.turns_per_s
    if above > ABOVE_BOUND_LIMIT:
        causes.append(
            f"in the steady window {above:.0%} of what {result.bound.binds} allow came out: the "
            "window is too short beside what buffers hold; give the workload more agents or turns"
        )
    lateness_s, calls, overruns = _prefill_lateness(run)
    if window_s > 0 and lateness_s / window_s > LATENESS_LIMIT:
        causes.append(f"prefill layers were {lateness_s / window_s:.0%} of the window late in sum")
    if calls and overruns / calls > OVERRUN_LIMIT:
        causes.append(f"{overruns / calls:.0%} of layers took longer than the model allows")
    ticks = [account.counts for account in run.accounts.values() if "ticks" in account.counts]
    late = sum(count["late_ticks"] for count in ticks)
    total = sum(count["ticks"] for count in ticks)
    if total and late / total > LATE_TICK_LIMIT:
        causes.append(f"{late / total:.0%} of decode ticks came a whole period late")
    causes += _cpu(run, cores)
    causes += _holes(run, result)
    return causes + _delays(run)


def _prefill_lateness(run: RunData) -> tuple[float, float, float]:
    computes: Sequence[dict[str, float]] = [
        account.compute for account in run.accounts.values() if account.forwards and account.compute
    ]
    return (
        max((compute["lateness_s"] for compute in computes), default=0.0),
        sum(compute["calls"] for compute in computes),
        sum(compute["overruns"] for compute in computes),
    )


def _holes(run: RunData, result: PolicyResult) -> list[str]:
    """Paged memory knows no holes; where ours made contexts wait, the model is not kept."""
    return [
        f"{host} had room for a context {count} times, but not in one piece; "
        "give its memory more contexts to hold, or contexts of similar lengths"
        for host, account in run.accounts.items()
        if (count := account.counts.get("no_hole", 0)) > NO_HOLE_LIMIT * result.completed_turns
    ]


def _cpu(run: RunData, cores: int) -> list[str]:
    samples = run.samples.samples
    first, last = samples[0], samples[-1]
    length_s = last.at_monotonic_s - first.at_monotonic_s
    if length_s <= 0:
        return ["too few samples to tell how busy the machine was"]
    busy = (last.busy_s - first.busy_s) / length_s / cores
    own = (last.own_s - first.own_s) / length_s / cores
    causes = []
    if busy - own > FOREIGN_LIMIT:
        causes.append(f"other programs used {busy - own:.0%} of the machine's {cores} cores")
    if busy > BUSY_LIMIT:
        causes.append(f"the machine's {cores} cores were {busy:.0%} busy; use a larger time scale")
    return causes


def _delays(run: RunData) -> list[str]:
    """A host that waits for a CPU is late in ways that its own clock does not show."""
    samples = run.samples.samples
    length_s = samples[-1].at_monotonic_s - samples[0].at_monotonic_s
    waits = {host: account.run_delay_s for host, account in run.accounts.items()}
    worst = max(waits, key=waits.__getitem__)
    if length_s <= 0 or waits[worst] / length_s <= DELAY_LIMIT:
        return []
    share = waits[worst] / length_s
    return [f"{worst} could have run but had no CPU {share:.0%} of the time"]
