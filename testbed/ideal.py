"""Policies that ask for a cluster whose KV moves at once: the paper's Oracle (section 7)."""

from collections.abc import Sequence

import msgspec

from testbed.errors import InputError
from testbed.policies import Chosen
from testbed.spec import Experiment, NodeSpec
from testbed.spec_profiles import Delays

# A turn's transfers take a thousandth of their time: less than one control message. They are not
# left out, so that every byte and every token is still checked.
FASTER = 1000.0


def as_played(experiment: Experiment, policy: Chosen) -> Experiment:
    """The experiment as a policy plays it: without I/O, links are fast and have no delay."""
    if policy.traits().io:
        return experiment
    hardware = experiment.hardware
    faster = msgspec.structs.replace(
        hardware,
        snic_bytes_per_s=hardware.snic_bytes_per_s * FASTER,
        cnic_bytes_per_s=hardware.cnic_bytes_per_s * FASTER,
        dram_bytes_per_s=hardware.dram_bytes_per_s * FASTER,
    )
    nodes = {
        node: NodeSpec(snic_share=spec.snic_share)
        for node, spec in experiment.nodes.items()
        if spec.snic_share is not None
    }
    return msgspec.structs.replace(experiment, hardware=faster, nodes=nodes, delays=Delays())


def require_io(policies: Sequence[Chosen]) -> None:
    """Raise InputError for a policy that real links cannot serve."""
    for policy in policies:
        if not policy.traits().io:
            raise InputError(
                f"policy {policy.name} moves KV in no time, and real links take some; "
                "play it in virtual time: --world virtual"
            )
