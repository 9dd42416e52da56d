"""What can be said of an experiment before it runs: its shape, load, scale, and bounds."""

import textwrap
from collections.abc import Sequence

import msgspec

from testbed import cluster, delays, scale
from testbed.bound import Bound, bound, reads_of
from testbed.cluster import Interval
from testbed.ideal import as_played
from testbed.policies import Chosen
from testbed.scale import Ratio
from testbed.spec import BLOCK_TOKENS, Experiment
from testbed.workload import Averages, Workload, averages, loads, offered_turns_per_s
from testbed.worlds.knobs import knobs

HEAD_COLUMNS = 10
TERMS_INDENT = " " * 4


class Facts(msgspec.Struct, frozen=True):
    """`links` are emulated payload rates in bit/s, `policies` what each asks of the engines.

    `delays_s` are one-way delays of ways that turns take, the longest of a kind; empty without any.

    `free` is the interval of P/D in which only storage NICs bind, `paper_free` that of the paper's
    node, whose compute NICs carry other flows than ours.
    """

    experiment: str
    cluster: str
    workload: str
    averages: Averages
    stored_bytes: float
    ratios: tuple[Ratio, ...]
    free: Interval
    paper_free: tuple[float, float]
    links: dict[str, float]
    bounds: dict[str, Bound]
    policies: dict[str, str]
    warnings: list[str]
    resolved: Experiment
    delays_s: dict[str, float] = {}


def facts(
    name: str, experiment: Experiment, workload: Workload, policies: Sequence[Chosen]
) -> Facts:
    """Work everything out; raises InputError if a context fits into no memory."""
    mean = averages(workload, BLOCK_TOKENS)
    cluster.check_fits(experiment, mean)
    turns = list(loads(workload, BLOCK_TOKENS))
    offered = offered_turns_per_s(workload)
    return Facts(
        experiment=name,
        cluster=_cluster_text(experiment),
        workload=workload.rule,
        averages=mean,
        stored_bytes=_stored_bytes(experiment, workload),
        ratios=scale.dimensionless(experiment, turns),
        free=cluster.port_interval(experiment),
        paper_free=cluster.bottleneck_free(experiment),
        links=_links(experiment),
        bounds={
            policy.name: bound(
                as_played(experiment, policy),
                turns,
                reads_of(policy.reads_like),
                mean.agents,
                offered,
            )
            for policy in policies
        },
        policies={policy.name: _policy_text(experiment, policy) for policy in policies},
        warnings=cluster.warnings(experiment),
        resolved=experiment,
        delays_s=delays.ways_s(experiment),
    )


def text(found: Facts, columns: int) -> str:
    """The same for people, in lines of so many columns."""
    mean = found.averages
    turns = (
        f"mean turn: {mean.hit_tokens:,.0f} tokens hit in whole blocks, "
        f"{mean.computed_tokens:,.1f} computed, {mean.generate_tokens:,.1f} generated; "
        f"hit rate {mean.hit_rate:.2%}; {mean.turns} turns; longest context "
        f"{mean.max_context_tokens:,} tokens; "
        f"{found.stored_bytes / 1e9:,.1f} GB in storage from the start"
    )
    lines = [
        *_paragraph("cluster", found.cluster, columns),
        *_paragraph("workload", found.workload, columns),
        *_paragraph("", turns, columns),
    ]
    for policy, asked in found.policies.items():
        lines += _paragraph("policy", f"{policy}: {asked}", columns)
    lines += ["", f"{'':18}{'target':>10}{'emulated':>10}"]
    lines += [f"{r.name:18}{r.target:10.4g}{r.emulated:10.4g}" for r in found.ratios]
    free, (low, high) = found.free, found.paper_free
    lines += ["", *textwrap.wrap(
        f"only storage NICs bind for P/D from {free.low:.2f} (below: {free.below}) to "
        f"{free.high:.2f} (above: {free.above}); on the paper's node from {low:.2f} to {high:.2f}",
        columns,
    )]  # fmt: skip
    rates = ", ".join(f"{name} {bps / 1e6:,.1f}" for name, bps in found.links.items())
    lines += ["", f"links, emulated payload in Mbit/s: {rates}", ""]
    if found.delays_s:
        ways = ", ".join(f"{way} {delay_s * 1e3:g}" for way, delay_s in found.delays_s.items())
        lines += textwrap.wrap(f"delays, one way, the longest of a kind in ms: {ways}", columns)
        lines.append("")
    lines.append("at most, in turns/s, and what sets that limit:")
    wide = max((12, *map(len, found.bounds)))
    for policy, limit in found.bounds.items():
        terms = ", ".join(f"{name} {value:,.1f}" for name, value in limit.terms.items())
        lines.append(f"  {policy:{wide}}{limit.turns_per_s:8.1f}  {limit.binds}")
        lines += textwrap.wrap(
            f"({terms})", columns, initial_indent=TERMS_INDENT, subsequent_indent=TERMS_INDENT
        )
    return "\n".join(lines)


def _paragraph(head: str, words: str, columns: int) -> list[str]:
    return textwrap.wrap(
        words,
        columns,
        initial_indent=head.ljust(HEAD_COLUMNS),
        subsequent_indent=" " * HEAD_COLUMNS,
    )


def _cluster_text(experiment: Experiment) -> str:
    shape = experiment.cluster
    fold = "one process a node" if shape.folded else "one process a GPU"
    return (
        f"{shape.prefill_nodes}P{shape.decode_nodes}D, {shape.gpus_per_node} GPUs a node, {fold}; "
        f"model {experiment.model.name}, hardware {experiment.hardware.name}"
    )


def _policy_text(experiment: Experiment, policy: Chosen) -> str:
    traits = policy.traits(**knobs(experiment, policy))
    how = "layer by layer beside the compute" if traits.layerwise else "before and after compute"
    if not traits.io:
        how = "in no time"
    said = [f"KV moves {how}"]
    if traits.read_ahead is not None:
        said.append(f"a node reads ahead {traits.read_ahead} turns, as far as its buffer has room")
    if traits.max_tokens is not None:
        said.append(f"a GPU computes {traits.max_tokens:,} tokens in a forward")
    if traits.quota_s is not None:
        said.append(f"a forward takes {traits.quota_s:g} s of each GPU's attention")
    said.append(f"{experiment.engine.reads_in_flight} reads in flight a storage NIC")
    return "; ".join(said)


def _stored_bytes(experiment: Experiment, workload: Workload) -> float:
    tokens = sum(opening.tokens // BLOCK_TOKENS * BLOCK_TOKENS for opening in workload.openings)
    return tokens * experiment.model.kv_bytes_per_token


def _links(experiment: Experiment) -> dict[str, float]:
    law = scale.scaling(experiment)
    hardware = experiment.hardware
    return {
        "snic": law.bps(hardware.snic_bytes_per_s * hardware.snic_share),
        "cnic": law.bps(hardware.cnic_bytes_per_s),
        "node": law.bps(experiment.node_cnic_bytes_per_s),
    }
