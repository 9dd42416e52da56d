"""What stock Mininet needs to run the topology: an address for every NIC, and a switch."""

from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mininet.topo import Topo

# The testbed's own fabric numbers the same links in the same way.
NETWORKS = {
    "storage": ip_network("198.18.0.0/17"),
    "mgmt": ip_network("198.18.128.0/17"),
    "compute": ip_network("198.19.0.0/16"),
}


def give_addresses(topo: "Topo") -> None:
    """Have Mininet set every NIC's address; a host's own is that on the management network."""
    used = dict.fromkeys(NETWORKS, 0)
    for owner, _, info in topo.links(sort=True, withInfo=True):
        if topo.isSwitch(owner):
            continue
        name = info["network"]
        used[name] += 1
        network = NETWORKS[name]
        ip = str(ip_interface((network[used[name]], network.prefixlen)))
        info["params1"] = {"ip": ip}
        if name == "mgmt":
            topo.nodeInfo(owner)["ip"] = ip


def stock_switches() -> dict[str, Any]:
    """Linux bridges for `mn --switch`, by default too.

    Mininet's own takes only ports that are named after their switch; ours are named after the
    host and its NIC.
    """
    from mininet.nodelib import LinuxBridge

    class EveryPortBridge(LinuxBridge):  # type: ignore[misc]
        """A Linux bridge that takes all ports of its switch."""

        def start(self, controllers: list[Any]) -> None:
            super().start(controllers)
            for port in self.intfList():
                if port.name != "lo" and self.name not in port.name:
                    self.cmd("brctl addif", self, port)

    return {"lxbr": EveryPortBridge, "default": EveryPortBridge}


def stock_cli() -> Any:
    """Mininet's command line, which takes a host's name as the first word, hyphen included."""
    from mininet.cli import CLI

    class HyphenCLI(CLI):  # type: ignore[misc]
        """`pe0-buf ping 198.18.0.2` is a command of host pe0-buf."""

        identchars = CLI.identchars + "-"

    return HyphenCLI
