"""The network of the emulated world: a Mininet topology, addressed, shaped and counted."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric import netlink
from testbed.fabric.addresses import NicAddress, plan_addresses
from testbed.fabric.counters import LinkClasses, LinkCounters, read_links
from testbed.fabric.links import LinkState
from testbed.fabric.namespaces import require_private
from testbed.fabric.nodes import NamespaceHost, NetlinkIntf, Plan, VethLink, build_net
from testbed.fabric.rates import LinkRates
from testbed.fabric.shaping import CLASS_NAMES, ClassCounters, read_class, reshape, shape

if TYPE_CHECKING:
    from mininet.net import Mininet
    from mininet.topo import Topo

LinkId = tuple[str, str]


class HostNet(msgspec.Struct, frozen=True):
    """A host as its processes need it: join `netns_fd`, listen on `addresses[network]`."""

    name: str
    netns_fd: int
    addresses: dict[str, str]
    nics: dict[str, NicAddress]


class Fabric:
    """Bridges in the lab's own namespace, one namespace per host, shaped veth pairs between.

    `rates` holds payload bit/s per data link, the same in both directions; a link without a rate
    is unshaped, as are all management links. `burst_limit_bytes` caps what may leave at once
    after idle (1 ms of the rate otherwise). There is no stop: it ends with PID 1.
    """

    def __init__(
        self,
        topo: "Topo",
        rates: LinkRates,
        qos: bool = True,
        burst_limit_bytes: int | None = None,
    ) -> None:
        self.topo = topo
        self.rates = rates
        self.qos = qos
        self.burst_limit_bytes = burst_limit_bytes
        self.hosts: dict[str, HostNet] = {}
        self._payload_bps = dict(rates.payload_bps)
        self._links: dict[LinkId, VethLink] = {}
        self._sockets: dict[str, netlink.Rtnetlink] = {}
        unknown = self._payload_bps.keys() - set(_data_links(topo))
        if unknown:
            raise InputError(f"rates name links that the topology lacks: {sorted(unknown)}")

    def start(self) -> None:
        """Build it all; returns when every link forwards.

        Raises EnvironmentUnfit, before anything was made, unless called by PID 1 of an empty
        private namespace (see private.py), and if the kernel refuses a request.
        """
        require_private()
        _raise_open_files_limit()
        plan = Plan(plan_addresses(self.topo))
        net = build_net(self.topo, plan)
        self._lab = netlink.Rtnetlink()
        self._lab.send([netlink.link_up("lo", 1), *plan.requests])
        self._index_links(net)
        by_network: dict[str, list[NicAddress]] = {}
        for nic in plan.addresses.values():
            by_network.setdefault(nic.network, []).append(nic)
        for host in net.hosts:
            self._start_host(host, by_network)
        self._lab.send(self._shape_lab())
        self._settle()
        self._lab.send(self._forwarding())
        net.start()

    def _index_links(self, net: "Mininet") -> None:
        for link in net.links:
            owner = link.intf1.node.name
            if link.nic == "uplink":
                owner = link.intf1.name.removesuffix("-uplink")
            self._links[owner, link.nic] = link

    def _shape_lab(self) -> Iterator[netlink.Request]:
        for link_id, link in self._links.items():
            yield from self._shape(link_id, link.intf2)
            if link.nic == "uplink":
                yield from self._shape(link_id, link.intf1)

    def _settle(self) -> None:
        ends = [link.intf2 for link in self._links.values()]
        ends += [link.intf1 for link in self._links.values() if link.nic == "uplink"]
        for intf in ends:
            if not netlink.settle_link(intf.name):
                raise EnvironmentUnfit(f"switch port {intf.name} has no carrier; start again")

    def _forwarding(self) -> Iterator[netlink.Request]:
        uplinks = {
            link.intf1.node: link.intf2 for link in self._links.values() if link.nic == "uplink"
        }
        for link in self._links.values():
            near, far = link.intf1, link.intf2
            if near.address is None:
                continue
            yield netlink.forwarding(far.index, near.address.mac)
            if far.node in uplinks:
                yield netlink.forwarding(uplinks[far.node].index, near.address.mac)

    def _shape(self, link_id: LinkId, intf: NetlinkIntf) -> list[netlink.Request]:
        bps = self._payload_bps.get(link_id)
        if bps is None:
            return []
        return shape(intf.name, intf.index, bps, self.qos, self.burst_limit_bytes)

    def _start_host(self, host: NamespaceHost, by_network: dict[str, list[NicAddress]]) -> None:
        requests = [netlink.link_up("lo", 1)]
        nics: dict[str, NicAddress] = {}
        for intf in host.intfList():
            own = intf.address
            nics[intf.name] = own
            requests.append(netlink.link_up(intf.name, intf.index))
            requests.append(netlink.address(intf.index, own.ip, own.prefix_bits))
            requests += [
                netlink.neighbour(intf.index, peer.ip, peer.mac)
                for peer in by_network[own.network]
                if peer is not own
            ]
            requests += self._shape((host.name, intf.name), intf)
        sock = netlink.Rtnetlink(host.netns_fd)
        sock.send(requests)
        self._sockets[host.name] = sock
        addresses = {nic.network: nic.ip for nic in nics.values()}
        self.hosts[host.name] = HostNet(host.name, host.netns_fd, addresses, nics)

    def counters(self) -> dict[LinkId, LinkCounters]:
        """Bytes and packets of every link as its owner sees them, all from one read.

        An uplink's owner is its node: sent is what left the node for the compute switch.
        """
        ports = {link.intf2.name: link_id for link_id, link in self._links.items()}
        return read_links(Path("/proc/thread-self/net/dev").read_text(), ports)

    def class_counters(self) -> dict[LinkId, LinkClasses]:
        """Counters per HTB class, by "1:10" and "1:20", at both ends of every shaped link."""
        return {
            link_id: LinkClasses(
                sent=self._classes(self._near_socket(link), link.intf1.index),
                received=self._classes(self._lab, link.intf2.index),
            )
            for link_id, link in self._links.items()
            if self._payload_bps.get(link_id) is not None
        }

    def links(self) -> list[LinkState]:
        return [
            LinkState(
                o,
                n,
                self._payload_bps.get((o, n)),
                0.0,
                self.rates.payload_bps.get((o, n)),
                0.0,
                "none",
            )
            for o, n in self._payload_bps
        ]

    def marks(self) -> list[object]:
        return []

    def set_rate(self, link_id: LinkId, payload_bps: float) -> None:
        """Change a shaped link's rate at both ends; traffic in flight continues at the new rate.

        Raises InputError for a link that is unknown or was started unshaped.
        """
        if self._payload_bps.get(link_id) is None:
            raise InputError(f"link {link_id[0]}:{link_id[1]} is not shaped; give it a rate first")
        link = self._links[link_id]
        for sock, intf in ((self._near_socket(link), link.intf1), (self._lab, link.intf2)):
            sock.send(reshape(intf.name, intf.index, payload_bps, self.qos, self.burst_limit_bytes))
        self._payload_bps[link_id] = payload_bps

    def _near_socket(self, link: VethLink) -> netlink.Rtnetlink:
        return self._sockets.get(link.intf1.node.name, self._lab)

    def _classes(self, sock: netlink.Rtnetlink, index: int) -> dict[str, ClassCounters]:
        read = [read_class(body) for body in sock.dump_classes(index)]
        return {CLASS_NAMES[handle]: found for handle, found in read if handle in CLASS_NAMES}


def _raise_open_files_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _data_links(topo: "Topo") -> list[LinkId]:
    """Every link that carries KV; the owner of an uplink is its node."""
    found = []
    for owner, _, info in topo.links(withInfo=True):
        if info["nic"] == "uplink":
            found.append((info["intfName1"].removesuffix("-uplink"), "uplink"))
        elif info["network"] != "mgmt":
            found.append((owner, info["nic"]))
    return found
