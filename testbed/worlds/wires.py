"""The network of an experiment: from target rates to emulated ones, and from these to a fabric."""

from typing import TYPE_CHECKING

from testbed.fabric.rates import LinkRates, link_rates
from testbed.scale import scaling
from testbed.spec import Experiment
from testbed.worlds.plan import WirePlan
from topologies.shape import ClusterShape

if TYPE_CHECKING:
    from testbed.fabric.fabric import Fabric

STORAGE_HEADROOM = 2.0  # rate of each storage host over that of all SNICs together


def wire_plan(experiment: Experiment) -> WirePlan:
    """Shape and emulated rates of an experiment's links."""
    law = scaling(experiment)
    cluster = experiment.cluster
    gpus = cluster.gpus_per_node if cluster.folded else 1
    nodes = cluster.prefill_nodes + cluster.decode_nodes
    default = experiment.hardware.snic_bytes_per_s * experiment.hardware.snic_share
    return WirePlan(
        prefill_nodes=cluster.prefill_nodes,
        decode_nodes=cluster.decode_nodes,
        gpus_per_node=cluster.gpus_per_node,
        folded=cluster.folded,
        storage_hosts=cluster.storage_hosts,
        qos=experiment.qos,
        snic_bps=law.bps(default),
        cnic_bps=law.bps(experiment.hardware.cnic_bytes_per_s * gpus),
        node_bps=law.bps(experiment.node_cnic_bytes_per_s),
        # Never the limit: the paper's storage cluster can fill every storage NIC.
        storage_bps=law.bps(STORAGE_HEADROOM * default * nodes),
        snic_overrides_bps={
            f"{node}-buf": law.bps(experiment.snic_bytes_per_s(node)) for node in experiment.nodes
        },
    )


def shape_of(wires: WirePlan) -> ClusterShape:
    """The shape of a plan's network; ValueError for counts out of range."""
    return ClusterShape(
        wires.prefill_nodes,
        wires.decode_nodes,
        wires.gpus_per_node,
        wires.folded,
        wires.storage_hosts,
    )


def rates_of(wires: WirePlan) -> LinkRates:
    """Payload rate of every data link; InputError for one that is too small."""
    return link_rates(
        shape_of(wires),
        snic_bps=wires.snic_bps,
        cnic_bps=wires.cnic_bps,
        pcie_bps=wires.node_bps,
        uplink_bps=wires.node_bps,
        storage_bps=wires.storage_bps,
        overrides={(host, "snic"): bps for host, bps in wires.snic_overrides_bps.items()},
    )


def build_fabric(wires: WirePlan) -> "Fabric":
    """The cluster's network, up and shaped; to be called by PID 1 of private namespaces."""
    from testbed.fabric.fabric import Fabric
    from topologies.dualpath import DualPathTopo

    topo = DualPathTopo(
        wires.prefill_nodes,
        wires.decode_nodes,
        gpus_per_node=wires.gpus_per_node,
        folded=wires.folded,
        storage_hosts=wires.storage_hosts,
    )
    fabric = Fabric(topo, rates_of(wires), qos=wires.qos)
    fabric.start()
    return fabric
