"""Mininet's four building blocks on rtnetlink: no shell, no mnexec, no OVS, no ifconfig.

They queue the requests that make them in the plan that they share; Fabric sends these in batches.
"""

import os
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from testbed.fabric import _distutils, netlink
from testbed.fabric.addresses import NicAddress
from testbed.fabric.namespaces import create

_distutils.install()

import mininet.net  # noqa: E402
from mininet.link import Intf, Link  # noqa: E402
from mininet.node import Node, Switch  # noqa: E402

if TYPE_CHECKING:
    from mininet.topo import Topo

FIRST_HOST_INDEX = 2  # after lo


def _leave_limits_alone() -> None:
    """In place of Mininet's fixLimits, which writes sysctls of the whole machine."""


def _let_the_kernel_say() -> None:
    """In place of Mininet's ensureRoot, which exits the program unless it is root's."""


def _need_nothing(_cls: type[Node]) -> None:
    """In place of Node.setup, which exits the program if mnexec is missing."""


mininet.net.fixLimits = _leave_limits_alone
mininet.net.ensureRoot = _let_the_kernel_say
mininet.net.numCores = os.cpu_count  # Mininet's own forks grep
Node.setup = classmethod(_need_nothing)


class Plan:
    """What the nodes share: addresses, interface indexes of the lab, and the requests so far."""

    def __init__(self, addresses: dict[tuple[str, str], NicAddress]) -> None:
        self.addresses = addresses
        self.requests: list[netlink.Request] = []
        self.next_index = count(FIRST_HOST_INDEX).__next__


class NamespaceHost(Node):  # type: ignore[misc]
    """A host that is a network namespace and nothing else; processes join it by `netns_fd`."""

    def __init__(self, name: str, plan: Plan, **params: Any) -> None:
        self.netns_fd = -1
        self.next_index = count(FIRST_HOST_INDEX).__next__
        super().__init__(name, **params)

    def startShell(self, mnopts: str | None = None) -> None:
        """Make the namespace; there is no shell in it."""
        self.netns_fd = create()

    def config(self, **_params: Any) -> dict[str, Any]:
        """Nothing: Fabric sends addresses and neighbours of all interfaces at once."""
        return {}


class Bridge(Switch):  # type: ignore[misc]
    """A kernel bridge in the lab's own namespace."""

    def __init__(self, name: str, plan: Plan, dpid: str | None = None, **params: Any) -> None:
        self.plan = plan
        self.index = plan.next_index()
        # Not Switch's constructor: that configures the lab's lo through a shell.
        Node.__init__(self, name, **params)
        self.dpid = self.defaultDpid(dpid)
        self.controlIntf = None

    def startShell(self, mnopts: str | None = None) -> None:
        """Queue the bridge; there is no shell."""
        self.plan.requests.append(netlink.bridge(self.name, self.index))

    def start(self, _controllers: list[Any]) -> None:
        """Nothing: a bridge forwards from its creation on."""


class NetlinkIntf(Intf):  # type: ignore[misc]
    """An interface known by its index; its node's namespace is where it was made."""

    def __init__(self, name: str, index: int, node: Node, address: NicAddress | None) -> None:
        self.index = index
        self.address = address
        mac = None if address is None else address.mac
        super().__init__(name, node=node, mac=mac, moveIntfFn=Link._ignore)
        if address is not None:
            self.ip, self.prefixLen = address.ip, address.prefix_bits

    def config(self, **_params: Any) -> dict[str, Any]:
        """Nothing: created up and with its MAC."""
        return {}


class VethLink(Link):  # type: ignore[misc]
    """A veth pair from a host or a node's switch to a port of a switch.

    The far end, `intf2`, is always a bridge port of the lab; `nic` and `network` are the
    topology's.
    """

    def __init__(
        self,
        node1: Node,
        node2: Node,
        *,
        plan: Plan,
        intfName1: str,
        intfName2: str,
        nic: str,
        network: str,
        **_params: Any,
    ) -> None:
        self.nic, self.network = nic, network
        address = plan.addresses.get((node1.name, nic))
        near_index = (node1 if isinstance(node1, NamespaceHost) else plan).next_index()
        self.intf1 = NetlinkIntf(intfName1, near_index, node1, address)
        self.intf2 = NetlinkIntf(intfName2, plan.next_index(), node2, None)
        self._queue(plan)

    def _queue(self, plan: Plan) -> None:
        near, far = self.intf1, self.intf2
        host = near.node if isinstance(near.node, NamespaceHost) else None
        plan.requests += [
            netlink.veth(
                netlink.VethEnd(far.name, far.index, master=far.node.index),
                netlink.VethEnd(
                    near.name, near.index, near.mac, None if host is None else host.netns_fd
                ),
            ),
            netlink.quiet_port(far.name, far.index, flood=False),
        ]
        if host is None:
            plan.requests += [
                netlink.enslave(near.name, near.index, near.node.index),
                netlink.link_up(near.name, near.index),
                # Whatever a node's switch does not know lies beyond its uplink.
                netlink.quiet_port(near.name, near.index, flood=True),
            ]


def build_net(topo: "Topo", plan: Plan) -> mininet.net.Mininet:
    """Have Mininet make every node and link of a topology; the requests are left in the plan."""
    return mininet.net.Mininet(
        topo,
        host=partial(NamespaceHost, plan=plan),
        switch=partial(Bridge, plan=plan),
        link=partial(VethLink, plan=plan),
        controller=None,
    )
