"""Two verdicts of a run on itself: is it right, and are its times those of the modelled cluster?

What the machine did to the times is weighed in testbed/results/timing.py.
"""

from engines.config import DecodeConfig, PrefillConfig
from testbed.results.classes import astray
from testbed.results.rundata import RunData
from testbed.results.schema import PolicyResult, Verdict
from testbed.results.timing import doubts
from testbed.worlds.plan import LOOPBACK

PASSED, FAILED, FAITHFUL, INCONCLUSIVE = "passed", "failed", "faithful", "inconclusive"

NO_HOLE_LIMIT = 0.05  # waits for contiguous room, a turn
ABOVE_BOUND_LIMIT = 1.03  # throughput over what the scarcest resource allows
LEDGER_LIMIT = 0.01  # of a port whose flows are of the order of H
UNSHAPED = "loopback: links are not shaped, so times mean nothing here"
LEDGER_FRAME_BYTES = 4096  # a turn's frames, notes and acknowledgements on one port


def judge(run: RunData, result: PolicyResult) -> Verdict:
    """Both verdicts on one policy's run."""
    wrong = _functional(run, result)
    doubts = [UNSHAPED] if run.plan.fabric == LOOPBACK else _timing(run, result)
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
    """What a run has not shown to be right: no token, if it generated none; no class of traffic."""
    causes = []
    if run.plan.wires.qos and not run.has_classes:
        causes.append(
            "somebody switched the traffic classes meanwhile, so nobody can say whether KV kept to "
            "its own; for a run without classes set qos: false"
        )
    if result.tokens_checked or not result.completed_turns:
        return causes
    scale = run.plan.world.layout.token_scale
    return [
        *causes,
        f"no turn generated a token that could be checked; one stands for {scale}: generate more, "
        "or set a smaller scale.token_scale",
    ]


def _kv_is_counted_apart(run: RunData) -> bool:
    """Without classes, collectives count as KV: then only groups of one leave a ledger of KV.

    Transports tell classes apart even so.
    """
    if run.plan.fabric == LOOPBACK:
        return True
    roles = [host.role for host in run.plan.hosts]
    groups = [role.group for role in roles if isinstance(role, PrefillConfig | DecodeConfig)]
    return run.has_classes or all(len(group.engines) == 1 for group in groups)


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
    if not run.has_classes:
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


def _timing(run: RunData, result: PolicyResult) -> list[str]:
    causes = []
    if result.window_s[0] == 0:
        causes.append("no steady state was reached; give the workload more agents or turns")
    above = result.throughput_turns_per_s / result.bound.turns_per_s
    if above > ABOVE_BOUND_LIMIT:
        causes.append(
            f"in the steady window {above:.0%} of what {result.bound.binds} allow came out: the "
            "window is too short beside what buffers hold; give the workload more agents or turns"
        )
    if run.samples.changes:
        causes.append(
            f"somebody changed the network {len(run.samples.changes)} times (see `changes`), so "
            "times are not those of the experiment's links"
        )
    if result.timing is not None:
        causes += doubts(result.timing, run.plan)
    elif run.samples.cores:
        causes.append("too few samples to tell how busy the machine was; choose a longer workload")
    return causes + _holes(run, result)


def _holes(run: RunData, result: PolicyResult) -> list[str]:
    """Paged memory knows no holes; where ours made contexts wait, the model is not kept."""
    return [
        f"{host} had room for a context {count} times, but not in one piece; "
        "give its memory more contexts to hold, or contexts of similar lengths"
        for host, account in run.accounts.items()
        if (count := account.counts.get("no_hole", 0)) > NO_HOLE_LIMIT * result.completed_turns
    ]
