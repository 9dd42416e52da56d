"""The DualPath cluster as a Mininet topology, for any xPyD.

Also for stock Mininet: `mn --custom topologies/dualpath.py --topo dualpath,1,2`.

Each server node n (pe0.., de0..) is a switch of its own, `n-sw`, standing for the PCIe switch
and the loopback of the compute NICs; on it hang the node's GPU hosts (`cnic`), its buffer host
(`pcie`) and the uplink to the compute switch. Buffers and storage hosts meet on the storage
switch (`snic`), everything meets on the management switch (`mgmt`).
"""

from itertools import count

from mininet.topo import Topo

STORAGE_SWITCH = "sw-storage"
COMPUTE_SWITCH = "sw-compute"
MGMT_SWITCH = "sw-mgmt"
MAX_NODES = 100  # keeps every port name within the kernel's 15 characters
MAX_GPUS_PER_NODE = 8
MAX_STORAGE_HOSTS = 100


def _check(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what} is {value}; choose {low} to {high}")


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
        _check("prefill_nodes", prefill_nodes, 1, MAX_NODES)
        _check("decode_nodes", decode_nodes, 1, MAX_NODES)
        _check("gpus_per_node", gpus_per_node, 1, MAX_GPUS_PER_NODE)
        _check("storage_hosts", storage_hosts, 1, MAX_STORAGE_HOSTS)
        self.gpus_per_node = gpus_per_node
        self.folded = folded
        self.prefill = [f"pe{i}" for i in range(prefill_nodes)]
        self.decode = [f"de{i}" for i in range(decode_nodes)]
        self.storage = [f"store{i}" for i in range(storage_hosts)]
        self._dpids = count(1)
        for switch in (STORAGE_SWITCH, COMPUTE_SWITCH, MGMT_SWITCH):
            self._switch(switch)
        for node in self.server_nodes():
            self._server_node(node)
        for host in self.storage:
            self.addHost(host)
            self._nic(host, "snic", STORAGE_SWITCH, "storage")
            self._nic(host, "mgmt", MGMT_SWITCH, "mgmt")
        for host in ("sched", "agents"):
            self.addHost(host)
            self._nic(host, "mgmt", MGMT_SWITCH, "mgmt")

    def server_nodes(self) -> list[str]:
        """Names of the GPU servers, prefill nodes first."""
        return [*self.prefill, *self.decode]

    def gpu_hosts(self, node: str) -> list[str]:
        """The hosts that stand for a node's GPUs: one if folded."""
        if self.folded:
            return [f"{node}-gpu"]
        return [f"{node}-gpu{i}" for i in range(self.gpus_per_node)]

    def buffer_host(self, node: str) -> str:
        """The host that stands for a node's DRAM and storage NIC."""
        return f"{node}-buf"

    def _server_node(self, node: str) -> None:
        switch = self._switch(f"{node}-sw")
        buffer = self.addHost(self.buffer_host(node))
        self._nic(buffer, "snic", STORAGE_SWITCH, "storage")
        self._nic(buffer, "pcie", switch, "compute")
        self._nic(buffer, "mgmt", MGMT_SWITCH, "mgmt")
        for gpu in self.gpu_hosts(node):
            self.addHost(gpu)
            self._nic(gpu, "cnic", switch, "compute")
            self._nic(gpu, "mgmt", MGMT_SWITCH, "mgmt")
        self.addLink(
            switch,
            COMPUTE_SWITCH,
            intfName1=f"{node}-uplink",
            intfName2=f"{node}-spine",
            nic="uplink",
            network="compute",
        )

    def _switch(self, name: str) -> str:
        # Explicit, because Mininet would derive the same dpid from pe0-sw and de0-sw.
        self.addSwitch(name, dpid=f"{next(self._dpids):016x}")
        return name

    def _nic(self, host: str, nic: str, switch: str, network: str) -> None:
        port = f"{host}-{nic}"
        self.addLink(host, switch, intfName1=nic, intfName2=port, nic=nic, network=network)


topos = {"dualpath": DualPathTopo}
