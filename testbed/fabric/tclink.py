"""Stock Mininet, to be measured beside the fabric: its own nodes, shells, TCLinks and `tc`.

What it wants from outside and a machine may lack (mnexec, ifconfig, brctl, Open vSwitch) is done
by util-linux and iproute2, command for command, so that nothing slows it down.
"""

from typing import Any

from testbed.fabric import _distutils, nodes
from testbed.fabric.namespaces import require_private

_distutils.install()

import mininet.net  # noqa: E402
from mininet.link import TCIntf, TCLink  # noqa: E402
from mininet.log import lg  # noqa: E402
from mininet.node import Host, Switch  # noqa: E402

# Its import keeps Mininet from writing sysctls of the machine and from asking for mnexec.
PREPARED_BY = nodes
MOST_MBPS = 1000  # TCLink ignores larger rates in silence


class _Shell:
    """Starts a node's shell without mnexec, whose options come in one word (n: own network)."""

    def _popen(self, cmd: list[str], **params: Any) -> Any:
        assert cmd[0] == "mnexec"
        alone = ["unshare", "--net", "--"] if "n" in cmd[1] else []
        return super()._popen(  # type: ignore[misc]
            [*alone, *cmd[2:]], start_new_session=True, **params
        )


class StockHost(_Shell, Host):  # type: ignore[misc]
    """Mininet's host."""


class StockBridge(_Shell, Switch):  # type: ignore[misc]
    """A Linux bridge, made as Mininet's LinuxBridge makes it."""

    def start(self, _controllers: list[Any]) -> None:
        """Make the bridge and put every port on it."""
        self.cmd(f"ip link add {self.name} type bridge")
        for intf in self.intfList():
            if self.name in intf.name:
                self.cmd(f"ip link set dev {intf.name} master {self.name}")
        self.cmd(f"ip link set dev {self.name} up")


class StockIntf(TCIntf):  # type: ignore[misc]
    """Mininet's shaped interface, addressed by `ip`."""

    def setMAC(self, macstr: str) -> str:
        """Three commands, as upstream."""
        self.mac = macstr
        commands = ("down", f"address {macstr}", "up")
        return "".join(self.cmd(f"ip link set dev {self.name} {what}") for what in commands)

    def setIP(self, ipstr: str, prefixLen: int | None = None) -> str:
        """One command, as upstream."""
        self.ip, _, self.prefixLen = ipstr.partition("/")
        return str(self.cmd(f"ip address add {ipstr} dev {self.name}"))

    def isUp(self, setUp: bool = False) -> bool:
        """One command that sets it up, and one that looks, as upstream."""
        if setUp:
            self.cmd(f"ip link set dev {self.name} up")
        return "UP" in self.cmd(f"ip link show dev {self.name}")


def build(hosts: int, mbps: float) -> list[str]:
    """Have stock Mininet make hosts on two bridges, each NIC a TCLink; returns the hosts' names.

    Raises EnvironmentUnfit unless called by PID 1 of an empty private namespace, and ValueError
    for a rate that Mininet would ignore.
    """
    if mbps > MOST_MBPS:
        raise ValueError(f"TCLink ignores rates over {MOST_MBPS} Mbit/s and was given {mbps:g}")
    require_private()
    lg.setLogLevel("critical")  # `tc` warns about its own defaults, for each link
    net = mininet.net.Mininet(
        topo=None, host=StockHost, switch=StockBridge, controller=None, build=False,
        ipBase="198.18.0.0/15",
    )  # fmt: skip
    switches = [net.addSwitch(name) for name in ("s1", "s2")]
    for number in range(hosts):
        host = net.addHost(f"h{number}")
        for switch in switches:
            net.addLink(host, switch, cls=TCLink, cls1=StockIntf, cls2=StockIntf, bw=mbps)
    net.build()
    net.start()
    return [host.name for host in net.hosts]
