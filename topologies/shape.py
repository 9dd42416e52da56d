"""The DualPath cluster's shape, for any xPyD: hosts, links and paths, without a network.

Each server node n (pe0.., de0..) is a switch of its own, `n-sw`, standing for the PCIe switch
and the loopback of the compute NICs; on it hang the node's GPU hosts (`cnic`), its buffer host
(`pcie`) and the uplink to the compute switch. Buffers and storage hosts meet on the storage
switch (`snic`), everything meets on the management switch (`mgmt`).
"""

from collections.abc import Iterator
from typing import NamedTuple

STORAGE_SWITCH = "sw-storage"
COMPUTE_SWITCH = "sw-compute"
MGMT_SWITCH = "sw-mgmt"
MAX_NODES = 1000  # on either side
MAX_GPUS_PER_NODE = 8
MAX_STORAGE_HOSTS = 100
# On either side where hosts are real: each is a process on one machine, and two digits keep
# every port's name within the kernel's 15 characters.
MAX_EMULATED_NODES = 100


class Nic(NamedTuple):
    """A host's link to a switch; `network` is storage, compute or mgmt."""

    host: str
    nic: str
    switch: str
    network: str


class Port(NamedTuple):
    """One direction of a data link, as its owner sees it; a node owns its uplink."""

    owner: str
    nic: str
    way: str


def check_count(what: str, value: int, low: int, high: int) -> None:
    """Raise ValueError unless a count is within its limits."""
    if not low <= value <= high:
        raise ValueError(f"{what} is {value}; choose {low} to {high}")


class ClusterShape:
    """Prefill and decode nodes, storage, and the three switches between them.

    Raises ValueError for counts out of range.
    """

    def __init__(
        self,
        prefill_nodes: int = 1,
        decode_nodes: int = 1,
        gpus_per_node: int = 8,
        folded: bool = True,
        storage_hosts: int = 1,
    ) -> None:
        check_count("prefill_nodes", prefill_nodes, 1, MAX_NODES)
        check_count("decode_nodes", decode_nodes, 1, MAX_NODES)
        check_count("gpus_per_node", gpus_per_node, 1, MAX_GPUS_PER_NODE)
        check_count("storage_hosts", storage_hosts, 1, MAX_STORAGE_HOSTS)
        self.gpus_per_node = gpus_per_node
        self.folded = folded
        self.nodes = [f"pe{i}" for i in range(prefill_nodes)]
        self.nodes += [f"de{i}" for i in range(decode_nodes)]
        self.storage = [f"store{i}" for i in range(storage_hosts)]
        self._data = {(nic.host, nic.network): nic for nic in self.nics() if nic.nic != "mgmt"}

    def gpu_hosts(self, node: str) -> list[str]:
        """The hosts that stand for a node's GPUs: one if folded."""
        if self.folded:
            return [f"{node}-gpu"]
        return [f"{node}-gpu{i}" for i in range(self.gpus_per_node)]

    def buffer_host(self, node: str) -> str:
        """The host that stands for a node's DRAM and storage NIC."""
        return f"{node}-buf"

    def node_switch(self, node: str) -> str:
        """The switch inside a node."""
        return f"{node}-sw"

    def nics(self) -> Iterator[Nic]:
        """Every link of a host, node by node, then storage, then the hosts of control."""
        for node in self.nodes:
            buffer, switch = self.buffer_host(node), self.node_switch(node)
            yield Nic(buffer, "snic", STORAGE_SWITCH, "storage")
            yield Nic(buffer, "pcie", switch, "compute")
            yield Nic(buffer, "mgmt", MGMT_SWITCH, "mgmt")
            for gpu in self.gpu_hosts(node):
                yield Nic(gpu, "cnic", switch, "compute")
                yield Nic(gpu, "mgmt", MGMT_SWITCH, "mgmt")
        for host in self.storage:
            yield Nic(host, "snic", STORAGE_SWITCH, "storage")
            yield Nic(host, "mgmt", MGMT_SWITCH, "mgmt")
        for host in ("sched", "agents"):
            yield Nic(host, "mgmt", MGMT_SWITCH, "mgmt")

    def data_links(self) -> list[tuple[str, str]]:
        """(owner, nic) of every link that carries KV."""
        links = [(nic.host, nic.nic) for nic in self._data.values()]
        return [*links, *((node, "uplink") for node in self.nodes)]

    def path(self, sender: str, peer: str) -> tuple[Port, ...]:
        """The ports that data crosses between two hosts; ValueError if no data network joins them.

        Between two nodes it passes both uplinks, inside a node none.
        """
        for network in ("storage", "compute"):
            near, far = self._data.get((sender, network)), self._data.get((peer, network))
            if near is None or far is None:
                continue
            between: tuple[Port, ...] = ()
            if near.switch != far.switch:
                nodes = [nic.switch.removesuffix("-sw") for nic in (near, far)]
                between = (Port(nodes[0], "uplink", "tx"), Port(nodes[1], "uplink", "rx"))
            return (Port(sender, near.nic, "tx"), *between, Port(peer, far.nic, "rx"))
        raise ValueError(f"{sender} and {peer} share no data network")
