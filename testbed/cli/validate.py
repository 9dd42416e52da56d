"""`testbed validate`: is an experiment valid, and what may be expected of it?"""

from pathlib import Path
from typing import Any

import click
import msgspec

from testbed import cluster, scale
from testbed.bound import bound, reads_of
from testbed.spec import BLOCK_TOKENS, Experiment, load_experiment
from testbed.workload import Averages, Workload, averages, build_workload, loads

POLICIES = ("basic", "static-split", "dualpath")


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(experiment: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check an EXPERIMENT file; create nothing."""
    facts = _facts(experiment, overrides)
    if as_json:
        click.echo(msgspec.json.encode(facts).decode())
        return
    for warning in facts["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    click.echo(_text(facts))


def _facts(path: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    experiment = load_experiment(path, overrides)
    workload = build_workload(experiment.workload, experiment.seed)
    mean = averages(workload, BLOCK_TOKENS)
    cluster.check_fits(experiment, mean)
    turns = list(loads(workload, BLOCK_TOKENS))
    bounds = {
        policy: bound(experiment, turns, reads_of(policy), mean.agents) for policy in POLICIES
    }
    facts = {
        "experiment": str(path),
        "cluster": _cluster_text(experiment),
        "workload": workload.rule,
        "averages": mean,
        "stored_bytes": _stored_bytes(experiment, workload),
        "ratios": scale.dimensionless(experiment, turns),
        "links": _links(experiment),
        "bounds": bounds,
        "warnings": cluster.warnings(experiment),
        "resolved": experiment,
    }
    builtins: dict[str, Any] = msgspec.to_builtins(facts)
    return builtins


def _cluster_text(experiment: Experiment) -> str:
    shape = experiment.cluster
    fold = "one process a node" if shape.folded else "one process a GPU"
    return (
        f"{shape.prefill_nodes}P{shape.decode_nodes}D, {shape.gpus_per_node} GPUs a node, {fold}; "
        f"model {experiment.model.name}, hardware {experiment.hardware.name}"
    )


def _stored_bytes(experiment: Experiment, workload: Workload) -> float:
    tokens = sum(opening.tokens // BLOCK_TOKENS * BLOCK_TOKENS for opening in workload.openings)
    return tokens * experiment.model.kv_bytes_per_token


def _links(experiment: Experiment) -> dict[str, float]:
    """Emulated payload rates in bit/s of the links that a profile names."""
    law = scale.scaling(experiment)
    hardware = experiment.hardware
    return {
        "snic": law.bps(hardware.snic_bytes_per_s * hardware.snic_share),
        "cnic": law.bps(hardware.cnic_bytes_per_s),
        "node": law.bps(experiment.node_cnic_bytes_per_s),
    }


def _text(facts: dict[str, Any]) -> str:
    mean = msgspec.convert(facts["averages"], Averages)
    lines = [
        f"{facts['experiment']} is valid",
        f"cluster   {facts['cluster']}",
        f"workload  {facts['workload']}",
        f"          mean turn: {mean.hit_tokens:,.0f} tokens hit in whole blocks, "
        f"{mean.computed_tokens:,.1f} computed, {mean.generate_tokens:,.1f} generated; "
        f"hit rate {mean.hit_rate:.2%}",
        f"          {mean.turns} turns; longest context {mean.max_context_tokens:,} tokens; "
        f"{facts['stored_bytes'] / 1e9:,.1f} GB in storage from the start",
        "",
        f"{'':18}{'target':>10}{'emulated':>10}",
    ]
    lines += [
        f"{ratio['name']:18}{ratio['target']:10.4g}{ratio['emulated']:10.4g}"
        for ratio in facts["ratios"]
    ]
    rates = ", ".join(f"{name} {bps / 1e6:,.1f}" for name, bps in facts["links"].items())
    lines += ["", f"links, emulated payload in Mbit/s: {rates}", "", "at most, in turns/s:"]
    for policy, limit in facts["bounds"].items():
        terms = ", ".join(f"{name} {value:,.1f}" for name, value in limit["terms"].items())
        lines.append(f"  {policy:12}{limit['turns_per_s']:8.1f}  {limit['binds']} binds  ({terms})")
    return "\n".join(lines)
