"""Shapes, names, addresses and rates of the DualPath topology, without a network."""

import os
import subprocess
import sys
from collections import Counter
from ipaddress import ip_address

import pytest

from testbed.errors import InputError
from testbed.fabric.addresses import NETWORKS, plan_addresses
from testbed.fabric.counters import read_links, retransmitted_bytes
from testbed.fabric.rates import link_rates
from testbed.fabric.shaping import burst_bytes, kv_queue_bytes
from testbed.fabric.wire import wire_bps
from topologies.dualpath import DualPathTopo, topos
from topologies.shape import ClusterShape, Port

BPS = {"snic_bps": 1e8, "cnic_bps": 8e8, "pcie_bps": 8e8, "uplink_bps": 8e8}
SHAPES = [(1, 1, 8, True, 1), (1, 2, 8, False, 2), (2, 4, 8, False, 1), (100, 100, 1, True, 3)]


@pytest.mark.parametrize(("prefill", "decode", "gpus", "folded", "stores"), SHAPES)
def test_every_node_has_its_hosts_links_and_switch(
    prefill: int, decode: int, gpus: int, folded: bool, stores: int
) -> None:
    topo = DualPathTopo(prefill, decode, gpus, folded, stores)
    nodes = prefill + decode
    engines = nodes * (1 if folded else gpus)
    assert len(topo.hosts()) == nodes + engines + stores + 2
    assert len(topo.switches()) == nodes + 3
    links = [info for _, _, info in topo.links(withInfo=True)]
    assert Counter(info["nic"] for info in links) == {
        "snic": nodes + stores,
        "pcie": nodes,
        "cnic": engines,
        "uplink": nodes,
        "mgmt": nodes + engines + stores + 2,
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_names_are_short_and_unique(shape: tuple[int, int, int, bool, int]) -> None:
    topo = DualPathTopo(*shape)
    links = [info for _, _, info in topo.links(withInfo=True)]
    ports = [info["intfName2"] for info in links]
    ports += [info["intfName1"] for info in links if info["nic"] == "uplink"]
    ports += topo.switches()
    assert len(set(ports)) == len(ports)
    assert max(map(len, ports)) <= 15
    dpids = [topo.nodeInfo(switch)["dpid"] for switch in topo.switches()]
    assert len(set(dpids)) == len(dpids)


def test_a_port_carries_the_name_of_its_host_and_nic() -> None:
    topo = DualPathTopo(1, 1, 2, False)
    assert topo.linkInfo("pe0-gpu0", "pe0-sw")["intfName2"] == "pe0-gpu0-cnic"
    assert topo.linkInfo("pe0-buf", "sw-storage")["intfName2"] == "pe0-buf-snic"
    assert topo.shape.gpu_hosts("pe0") == ["pe0-gpu0", "pe0-gpu1"]


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (101, 1), (1, 1, 9), (1, 1, 8, True, 0)])
def test_counts_out_of_range_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="choose 1 to"):
        DualPathTopo(*counts)


def test_a_shape_without_a_network_may_be_larger() -> None:
    shape = ClusterShape(1000, 1000)
    assert len(shape.nodes) == 2000
    with pytest.raises(ValueError, match="decode_nodes is 1001; choose 1 to 1000"):
        ClusterShape(1, 1001)
    with pytest.raises(ValueError, match=r"decode_nodes is 101; choose 1 to 100$"):
        DualPathTopo(1, 101)


def test_the_topology_has_the_links_of_its_shape() -> None:
    topo = DualPathTopo(2, 1, 2, False, 2)
    links = [(a, i["nic"], b, i["network"]) for a, b, i in topo.links(sort=True, withInfo=True)]
    uplinks = [link for link in links if link[1] == "uplink"]
    assert sorted(set(links) - set(uplinks)) == sorted(topo.shape.nics())
    assert [node for node, *_ in uplinks] == ["de0-sw", "pe0-sw", "pe1-sw"]


@pytest.mark.parametrize(("sender", "peer", "ports"), [
    ("store0", "pe0-buf", "store0:snic:tx pe0-buf:snic:rx"),
    ("pe0-buf", "pe0-gpu", "pe0-buf:pcie:tx pe0-gpu:cnic:rx"),
    ("pe0-gpu", "de0-buf", "pe0-gpu:cnic:tx pe0:uplink:tx de0:uplink:rx de0-buf:pcie:rx"),
    ("de0-buf", "store0", "de0-buf:snic:tx store0:snic:rx"),
])  # fmt: skip
def test_data_crosses_uplinks_between_nodes_alone(sender: str, peer: str, ports: str) -> None:
    path = ClusterShape(1, 1).path(sender, peer)
    assert path == tuple(Port(*port.split(":")) for port in ports.split())


def test_there_is_no_data_path_to_a_host_of_control() -> None:
    with pytest.raises(ValueError, match="agents share no data network"):
        ClusterShape(1, 1).path("pe0-gpu", "agents")


def test_stock_mininet_finds_the_topology_by_name() -> None:
    assert topos == {"dualpath": DualPathTopo}


def test_addresses_are_unique_and_each_on_its_own_network() -> None:
    plan = plan_addresses(DualPathTopo(100, 100, 8, False, 100))
    assert len({nic.ip for nic in plan.values()}) == len(plan)
    assert len({nic.mac for nic in plan.values()}) == len(plan)
    for nic in plan.values():
        assert ip_address(nic.ip) in NETWORKS[nic.network]
    assert plan["pe0-buf", "pcie"].network == plan["pe0-gpu7", "cnic"].network == "compute"


def test_addresses_are_the_same_every_time() -> None:
    assert plan_addresses(DualPathTopo(2, 4)) == plan_addresses(DualPathTopo(2, 4))


def test_rates_cover_every_data_link_and_overrides_win() -> None:
    shape = ClusterShape(1, 2)
    rates = link_rates(shape, **BPS, storage_bps=None, overrides={("de1-buf", "snic"): 5e7})
    assert set(rates.payload_bps) == set(shape.data_links())
    assert rates.payload_bps["pe0-buf", "snic"] == 1e8
    assert rates.payload_bps["de1-buf", "snic"] == 5e7
    assert rates.payload_bps["store0", "snic"] is None
    assert rates.payload_bps["pe0", "uplink"] == 8e8


@pytest.mark.parametrize(
    ("link", "bps"),
    [
        (("pe9-buf", "snic"), 1e8),
        (("pe0-buf", "mgmt"), 1e8),
        (("pe0-buf", "snic"), 0.0),
        (("pe0-buf", "snic"), float("nan")),
        (("pe0-buf", "snic"), float("inf")),
    ],
)
def test_an_override_of_no_link_or_no_rate_is_refused(link: tuple[str, str], bps: float) -> None:
    with pytest.raises(InputError):
        link_rates(ClusterShape(1, 1), **BPS, overrides={link: bps})


def test_the_shaper_passes_headers_on_top_of_the_payload_rate() -> None:
    assert wire_bps(1448e6) == pytest.approx(1514e6)


def test_burst_is_a_millisecond_within_its_limits() -> None:
    assert burst_bytes(1448e6, None) == pytest.approx(1514e6 / 8 / 1000, abs=1)
    assert burst_bytes(1448e6, 6000) == 6000
    assert burst_bytes(1e6, None) == burst_bytes(1e9, 1) == 3028


def test_the_kv_queue_holds_ten_milliseconds_but_four_large_packets() -> None:
    assert kv_queue_bytes(100e6) == 256 * 1024
    assert kv_queue_bytes(1448e6) == pytest.approx(1514e6 / 8 / 100, abs=1)


def test_what_a_port_received_its_owner_sent() -> None:
    text = "Inter-\n face\n  pe0-buf-snic: 6600 100 0 0 0 0 0 0 132 2 0 0 0 0 0 0\n  lo: 1 1\n"
    counters = read_links(text, {"pe0-buf-snic": ("pe0-buf", "snic")})["pe0-buf", "snic"]
    assert (counters.sent_bytes, counters.sent_packets) == (6600, 100)
    assert (counters.received_bytes, counters.received_packets) == (132, 2)
    assert counters.sent_payload_bytes == counters.received_payload_bytes == 0


def test_mininet_imports_where_python_has_no_distutils() -> None:
    program = (
        "import sys; sys.modules['distutils'] = None; import testbed.fabric.fabric; "
        "from distutils.version import StrictVersion as V; assert V('1.9') < V('1.10')"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=env)


def test_retransmitted_segments_are_counted_whole() -> None:
    text = (
        "Ip: Forwarding DefaultTTL\nIp: 1 64\n"
        "Tcp: RtoAlgorithm InSegs OutSegs RetransSegs InErrs\nTcp: 1 100 90 3 0\n"
    )
    assert retransmitted_bytes(text) == 3 * 1448
