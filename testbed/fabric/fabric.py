"""The network of the emulated world: a Mininet topology, addressed, shaped and counted."""

import resource
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric import calibrate, netlink
from testbed.fabric.addresses import HostNet, NicAddress, plan_addresses
from testbed.fabric.counters import LinkClasses, LinkCounters, read_links
from testbed.fabric.delay import netem_works
from testbed.fabric.links import End, Links, Setting, check_setting
from testbed.fabric.linkstate import LinkId, LinkState
from testbed.fabric.marks import Mark, Marks
from testbed.fabric.namespaces import joined, require_private
from testbed.fabric.nodes import NamespaceHost, Plan, VethLink, build_net
from testbed.fabric.rates import LinkRates
from testbed.yamlfile import nearest

if TYPE_CHECKING:
    from mininet.net import Mininet
    from mininet.topo import Topo

UNCHECKED_BPS = 200e6  # what any machine carries; above, a link is set only after a trial


class Fabric:
    """Bridges in the lab's own namespace, one namespace per host, shaped veth pairs between.

    `rates` holds payload bit/s per data link, the same in both directions; a link without a rate
    is unshaped, as are all management links. `delays_s` are one-way delays by netem.
    `burst_limit_bytes` caps what may leave at once after idle (1 ms of the rate otherwise).
    There is no stop: it ends with PID 1. Once started, any thread may use it.
    """

    def __init__(
        self,
        topo: "Topo",
        rates: LinkRates,
        qos: bool = True,
        burst_limit_bytes: int | None = None,
        delays_s: Mapping[LinkId, float] | None = None,
    ) -> None:
        self.topo = topo
        self.rates = rates
        self.hosts: dict[str, HostNet] = {}
        self.carried_bps = 0.0  # the highest rate that was seen to be reached
        self._veths: dict[LinkId, VethLink] = {}
        self._sockets: dict[str, netlink.Rtnetlink] = {}
        self._earlier: dict[LinkId, LinkCounters] = {}
        self._netem: bool | None = None
        self._changing = threading.RLock()
        links, delays_s = _data_links(topo), delays_s or {}
        unknown = (rates.payload_bps.keys() | delays_s.keys()) - set(links)
        if unknown:
            raise InputError(
                f"rates or delays name links that the topology lacks: {sorted(unknown)}"
            )
        nominal = {
            link_id: Setting(rates.payload_bps.get(link_id), delays_s.get(link_id, 0.0))
            for link_id in links
        }
        self._links = Links(nominal, qos, burst_limit_bytes)

    @property
    def qos(self) -> bool:
        """Whether MODEL and CTRL go before KV."""
        return self._links.qos

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
        for link in self._links.of.values():  # a delay that cannot be, before anything is made
            self._check(link.link_id, link.nominal)
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
        self._know_ends()
        self._marks = Marks(self.hosts, self._links)

    def _index_links(self, net: "Mininet") -> None:
        for link in net.links:
            owner = link.intf1.node.name
            if link.nic == "uplink":
                owner = link.intf1.name.removesuffix("-uplink")
            self._veths[owner, link.nic] = link

    def _shape_lab(self) -> Iterator[netlink.Request]:
        for link_id, link in self._veths.items():
            yield from self._links.build(link_id, link.intf2.name, link.intf2.index)
            if link.nic == "uplink":
                yield from self._links.build(link_id, link.intf1.name, link.intf1.index)

    def _know_ends(self) -> None:
        for link in self._links.of.values():
            near, far = self._veths[link.link_id].intf1, self._veths[link.link_id].intf2
            sock = self._sockets.get(near.node.name, self._lab)
            link.ends = End(sock, near.name, near.index), End(self._lab, far.name, far.index)

    def _settle(self) -> None:
        ends = [link.intf2 for link in self._veths.values()]
        ends += [link.intf1 for link in self._veths.values() if link.nic == "uplink"]
        for intf in ends:
            if not netlink.settle_link(intf.name):
                raise EnvironmentUnfit(f"switch port {intf.name} has no carrier; start again")

    def _forwarding(self) -> Iterator[netlink.Request]:
        uplinks = {
            link.intf1.node: link.intf2 for link in self._veths.values() if link.nic == "uplink"
        }
        for link in self._veths.values():
            near, far = link.intf1, link.intf2
            if near.address is None:
                continue
            yield netlink.forwarding(far.index, near.address.mac)
            if far.node in uplinks:
                yield netlink.forwarding(uplinks[far.node].index, near.address.mac)

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
            requests += self._links.build((host.name, intf.name), intf.name, intf.index)
        sock = netlink.Rtnetlink(host.netns_fd)
        sock.send(requests)
        self._sockets[host.name] = sock
        addresses = {nic.network: nic.ip for nic in nics.values()}
        self.hosts[host.name] = HostNet(host.name, host.netns_fd, addresses, nics)

    def counters(self) -> dict[LinkId, LinkCounters]:
        """Bytes and packets of every link as its owner sees them, all from one read.

        An uplink's owner is its node: sent is what left the node for the compute switch.
        """
        read = self._read_counters()
        return {
            link_id: one.since(self._earlier[link_id]) if self._earlier else one
            for link_id, one in read.items()
        }

    def _read_counters(self) -> dict[LinkId, LinkCounters]:
        ports = {link.intf2.name: link_id for link_id, link in self._veths.items()}
        return read_links(Path("/proc/thread-self/net/dev").read_text(), ports)

    def class_counters(self) -> dict[LinkId, LinkClasses]:
        """Counters per HTB class, by "1:10" and "1:20", at both ends of every shaped link."""
        return self._links.class_counters()

    def backlogs(self) -> dict[LinkId, tuple[int, int]]:
        """Bytes that wait now at the owner's and at the switch's end of every shaped link."""
        return self._links.backlogs()

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Nothing that crosses the links during a with block shows in counters afterwards.

        Not for a fabric that others use meanwhile: their traffic would be missing too.
        """
        told, classes = self.counters(), self.class_counters()
        try:
            yield
        finally:
            now = self._read_counters()
            self._earlier = {link_id: now[link_id].since(told[link_id]) for link_id in now}
            self._links.go_on_from(classes)

    @contextmanager
    def opened(self, link_ids: Sequence[LinkId], payload_bps: float) -> Iterator[None]:
        """Links of an idle fabric at another rate for the length of a with block."""
        links = [self._links.find(link_id) for link_id in link_ids]
        before = [link.setting for link in links]
        try:
            for link in links:
                self._links.set(link, Setting(payload_bps, link.setting.delay_s))
            yield
        finally:
            for link, setting in zip(links, before, strict=True):
                self._links.set(link, setting)

    def links(self) -> list[LinkState]:
        """Every data link as it is now, in the topology's order."""
        return [link.state() for link in self._links.of.values()]

    @property
    def delays_links(self) -> bool:
        """Whether any link has a delay by the topology."""
        return any(link.nominal.delay_s for link in self._links.of.values())

    def payload_rates(self) -> dict[LinkId, float | None]:
        """Payload bit/s of each data link now, None for an unshaped one."""
        return {link.link_id: link.setting.payload_bps for link in self._links.of.values()}

    def set_link(
        self, link_id: LinkId, *, payload_bps: float | None = None, delay_s: float | None = None
    ) -> LinkState:
        """Change a link's rate (payload bit/s) or delay (seconds one way); the other value stays.

        Traffic in flight goes on at the new rate, and class counters go on. The first delay of a
        link drops what waits at it. Raises InputError for an unknown link or a value without
        sense, EnvironmentUnfit for what this machine cannot do; nothing was changed then.
        """
        with self._changing:
            link = self._links.find(link_id)
            new = Setting(
                link.setting.payload_bps if payload_bps is None else payload_bps,
                link.setting.delay_s if delay_s is None else delay_s,
            )
            self._check(link.link_id, new)
            if payload_bps is not None and payload_bps > max(UNCHECKED_BPS, self.carried_bps):
                self.carried_bps = calibrate.require_carried(
                    ":".join(link.link_id), payload_bps, self._links.burst_limit_bytes
                )
            self._links.set(link, new)
            return link.state()

    def _check(self, link_id: LinkId, new: Setting) -> None:
        if new.delay_s > 0 and self._netem is None:
            self._netem = netem_works(self._lab)
        check_setting(":".join(link_id), new, bool(self._netem))

    def reset_link(self, link_id: LinkId) -> LinkState:
        """Bring a link back to the topology's rate and delay; raises InputError if unknown."""
        with self._changing:
            link = self._links.find(link_id)
            self._links.set(link, link.nominal)
            return link.state()

    def reset(self) -> None:
        """Bring every link back to the topology's rate and delay."""
        for link_id in self._links.of:
            self.reset_link(link_id)

    def set_qos(self, on: bool) -> None:
        """Switch the traffic classes of all links on or off while traffic goes on.

        Off, everything shares KV's queue and rate. What waits is not dropped, counters go on.
        """
        with self._changing:
            self._links.set_qos(on)

    def mark(self, host: str | None, proto: str, port: int, dscp: int) -> Mark:
        """Give packets that a host (None: every host) sends from or to a port this DSCP.

        For programs that cannot mark; it takes effect at once, on open connections too. `proto`
        is tcp or udp. A second mark of the same host, protocol and port replaces the first.
        Raises InputError for a host, protocol, port or DSCP that cannot be.
        """
        with self._changing:
            return self._marks.add(host, proto, port, dscp)

    def unmark(self, host: str | None, proto: str, port: int, dscp: int | None = None) -> None:
        """Take a mark back; raises InputError if there is none such, or of another `dscp`."""
        with self._changing:
            self._marks.remove(host, proto, port, dscp)

    def marks(self) -> list[Mark]:
        """All marks, in the order in which they were set."""
        return self._marks.all()

    def popen(self, host: str, argv: Sequence[str], **kwargs: Any) -> "subprocess.Popen[Any]":
        """Start a process in a host's network namespace, with the arguments of subprocess.Popen.

        It ends at the latest with the lab's PID 1, as its whole PID namespace does. Raises
        InputError for an unknown host.
        """
        # The child is a copy of the thread that forks, network namespace included: no code has
        # to run between fork and exec, so other threads do no harm.
        with joined(self.host(host).netns_fd):
            return subprocess.Popen(argv, **kwargs)

    def host(self, name: str) -> HostNet:
        """The host of that name; raises InputError that names the nearest."""
        if name not in self.hosts:
            raise InputError(f"no host {name}; {nearest(name, list(self.hosts), 'host')}")
        return self.hosts[name]


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
