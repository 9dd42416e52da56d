"""The DualPath cluster as a Mininet topology, for any xPyD; its shape is that of `shape.py`.

Also for stock Mininet: `testbed mn -- --custom topologies/dualpath.py --topo dualpath,1,2`.
"""

import sys
from collections import Counter
from itertools import count
from pathlib import Path

from mininet.topo import Topo

if __package__ in (
    None,
    "",
):  # mn executes this file's text alone, and tells it not even where that lies
    sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parents[1]))

from topologies.shape import (
    COMPUTE_SWITCH,
    MAX_EMULATED_NODES,
    MGMT_SWITCH,
    STORAGE_SWITCH,
    ClusterShape,
    check_count,
)
from topologies.stock import give_addresses, stock_cli, stock_switches


class DualPathTopo(Topo):  # type: ignore[misc]
    """Prefill and decode nodes, storage, and the three switches between them.

    Each host link carries `nic` (interface name in the host) and `network` (storage, compute or
    mgmt); its switch port is named `<host>-<nic>`. An uplink's `nic` is "uplink". Raises
    ValueError for counts out of range.
    """

    def build(
        self,
        prefill_nodes: int = 1,
        decode_nodes: int = 1,
        gpus_per_node: int = 8,
        folded: bool = True,
        storage_hosts: int = 1,
    ) -> None:
        """Called by Topo's constructor with the constructor's arguments."""
        check_count("prefill_nodes", prefill_nodes, 1, MAX_EMULATED_NODES)
        check_count("decode_nodes", decode_nodes, 1, MAX_EMULATED_NODES)
        shape = self.shape = ClusterShape(
            prefill_nodes, decode_nodes, gpus_per_node, folded, storage_hosts
        )
        self._dpids = count(1)
        for switch in (STORAGE_SWITCH, COMPUTE_SWITCH, MGMT_SWITCH):
            self._switch(switch)
        for node in shape.nodes:
            self._switch(shape.node_switch(node))
        data_ports: Counter[str] = Counter()
        for host, nic, switch, network in shape.nics():
            if host not in self.g.node:
                self.addHost(host)
            # Port 0 is the one that a host's name stands for: all hosts meet on that network.
            if nic != "mgmt":
                data_ports[host] += 1
            self.addLink(
                host,
                switch,
                port1=0 if nic == "mgmt" else data_ports[host],
                intfName1=nic,
                intfName2=f"{host}-{nic}",
                nic=nic,
                network=network,
            )
        for node in shape.nodes:
            self.addLink(
                shape.node_switch(node),
                COMPUTE_SWITCH,
                intfName1=f"{node}-uplink",
                intfName2=f"{node}-spine",
                nic="uplink",
                network="compute",
            )
        give_addresses(self)

    def _switch(self, name: str) -> str:
        # Explicit, because Mininet would derive the same dpid from pe0-sw and de0-sw.
        self.addSwitch(name, dpid=f"{next(self._dpids):016x}")
        return name


topos = {"dualpath": DualPathTopo}
if __package__ in (None, ""):
    switches = stock_switches()
    CLI = stock_cli()
