"""What a student's ID draws, and the variations that a solution has to stand.

Sizes move numbers, not answers: storage binds for every ID, and compute and HBM never do.
"""

import re
from importlib import resources
from random import Random

MAIN, WIDE, QUIET = "main", "wide", "quiet"

# Each on top of what was drawn. Nobody is told the rate of a NIC.
VARIATIONS: dict[str, tuple[str, ...]] = {
    MAIN: (),
    WIDE: (
        "cluster.decode_nodes=2",
        "nodes.de1.snic_share=0.12",
    ),
    # Agents come one by one, and their first prompts have no hits.
    QUIET: (
        "workload.kind=replay",
        "workload.set=32k",
        "workload.start=first",
        "workload.turns=6",
        "workload.agents=80",
        "workload.aps=1.0",
        "nodes.pe0.snic_share=0.1",
        "nodes.de0.snic_share=0.1",
    ),
}


def drawn(student: str) -> dict[str, int]:
    """Values of the experiment's marked keys; none without an ID."""
    if not student:
        return {}
    random = Random(f"idle-snic-{student}")
    return {
        "agents": random.randrange(280, 321),
        "cached_tokens": 64 * random.randrange(480, 577),
        "append_tokens": random.randrange(300, 500),
        "seed": random.randrange(1, 100_000),
    }


def experiment_text(student: str) -> str:
    """The experiment file of a student, comments included."""
    text = resources.files(__package__).joinpath("experiment.yaml").read_text("utf-8")
    for key, value in drawn(student).items():
        text = re.sub(rf"(?m)^( *{key}: )\S+", rf"\g<1>{value}", text)
    return text
