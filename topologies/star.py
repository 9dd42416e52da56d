"""A Mininet topology without a cluster: hosts on one switch for each kind of NIC, and no more."""

from mininet.topo import Topo

NICS = {"snic": ("sw-storage", "storage"), "cnic": ("sw-compute", "compute")}
MAX_HOSTS = 1000


class StarTopo(Topo):  # type: ignore[misc]
    """Hosts `h0`, `h1` and so on, each with one NIC on the switch of each of `nics`.

    The links carry what those of DualPathTopo carry. Raises ValueError for a count out of range
    and KeyError for a NIC that is not in NICS.
    """

    def build(self, hosts: int = 2, nics: tuple[str, ...] = ("snic",)) -> None:
        """Called by Topo's constructor with the constructor's arguments."""
        if not 1 <= hosts <= MAX_HOSTS:
            raise ValueError(f"hosts is {hosts}; choose 1 to {MAX_HOSTS}")
        for number, nic in enumerate(nics, 1):
            self.addSwitch(NICS[nic][0], dpid=f"{number:016x}")
        for host in map("h{}".format, range(hosts)):
            self.addHost(host)
            for nic in nics:
                switch, network = NICS[nic]
                self.addLink(
                    host, switch, intfName1=nic, intfName2=f"{host}-{nic}", nic=nic, network=network
                )
