"""The network of an experiment: from target rates to emulated ones, and from these to a fabric."""

from typing import TYPE_CHECKING

from testbed.delays import cluster_shape, link_delays_s
from testbed.scale import scaling
from testbed.spec import Experiment
from testbed.worlds.plan import WirePlan

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
            f"{node}-buf": law.bps(experiment.snic_bytes_per_s(node))
            for node, spec in experiment.nodes.items()
            if spec.snic_share is not None
        },
        delays_s=link_delays_s(experiment, cluster_shape(experiment)),
        time_scale=experiment.scale.time_scale,
    )


def netem_delays_s(wires: WirePlan) -> dict[tuple[str, str], float]:
    """Real seconds by link where the kernel can delay links; empty where it cannot.

    Raises EnvironmentUnfit outside of private namespaces: the kernel is tried on their lo.
    """
    from testbed.fabric.delay import netem_works
    from testbed.fabric.links import MAX_DELAY_S
    from testbed.fabric.namespaces import require_private
    from testbed.fabric.netlink import Rtnetlink

    if not wires.delays_s:
        return {}
    require_private()
    real_s = {
        tuple(link.split(":")): one * wires.time_scale for link, one in wires.delays_s.items()
    }
    lab = Rtnetlink()
    try:
        able = max(real_s.values()) <= MAX_DELAY_S and netem_works(lab)
    finally:
        lab.close()
    return {(owner, nic): delay_s for (owner, nic), delay_s in real_s.items()} if able else {}


def build_fabric(wires: WirePlan) -> "Fabric":
    """The cluster's network, up and shaped; to be called by PID 1 of private namespaces.

    Its links are delayed where the kernel has netem; elsewhere that is left to the transport.
    """
    from testbed.fabric.fabric import Fabric
    from topologies.dualpath import DualPathTopo

    topo = DualPathTopo(
        wires.prefill_nodes,
        wires.decode_nodes,
        gpus_per_node=wires.gpus_per_node,
        folded=wires.folded,
        storage_hosts=wires.storage_hosts,
    )
    delays_s = netem_delays_s(wires)
    fabric = Fabric(topo, wires.rates(), qos=wires.qos, delays_s=delays_s)
    fabric.start()
    return fabric
