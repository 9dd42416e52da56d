"""What really crosses the shaped links: rates, classes and silence, by the kernel's counters."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.fabric.private import start_private

HERE = Path(__file__).parent
KV_TOS, MODEL_TOS, CTRL_TOS = 0x20, 0xB8, 0xC0
ATTEMPTS = 3  # another process's burst of CPU is no fault of the shaper's


def run(plan: dict[str, Any]) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])}
    command = [sys.executable, str(HERE / "fabric_traffic.py"), json.dumps(plan)]
    with start_private(command, stdout=subprocess.PIPE, env=env) as process:
        out, _ = process.popen.communicate(timeout=60)
    assert process.popen.returncode == 0
    report: dict[str, Any] = json.loads(out)
    return report


def rates(snic_bps: float) -> dict[str, Any]:
    wide = 8 * snic_bps
    return {"snic_bps": snic_bps, "cnic_bps": wide, "pcie_bps": wide, "uplink_bps": wide}


def flow(sender: str, receiver: str, network: str = "storage", tos: int = KV_TOS) -> dict[str, Any]:
    return {"sender": sender, "receiver": receiver, "network": network, "tos": tos}


def goodput_share(plan: dict[str, Any], bps: float, tolerance: float = 0.01) -> float:
    shares: list[float] = []
    for _ in range(ATTEMPTS):
        shares.append(sum(run(plan)["goodput_bps"]) / bps)
        if abs(shares[-1] - 1) <= tolerance:
            break
    return shares[-1]


@pytest.mark.parametrize("topo", [{"folded": True}, {"folded": False, "gpus_per_node": 2}])
def test_an_idle_network_is_silent(topo: dict[str, Any]) -> None:
    report = run({"topo": topo, "rates": rates(142e6), "idle_s": 1.0})
    assert len(report["counters"]) >= 16
    for link, counters in report["counters"].items():
        assert counters["sent_packets"] == counters["received_packets"] == 0, link


@pytest.mark.parametrize("bps", [142e6, 1.6e9])
@pytest.mark.parametrize("senders", [["store0"], ["store0", "de0-buf"]])
def test_a_busy_link_carries_its_payload_rate(bps: float, senders: list[str]) -> None:
    plan = {
        "rates": rates(bps),
        "duration_s": 2.4,
        "flows": [flow(sender, "pe0-buf") for sender in senders],
    }
    # A fast flow needs most of a core, and the machine is not ours alone.
    tolerance = 0.01 if bps < 1e9 else 0.03
    assert goodput_share(plan, bps, tolerance) == pytest.approx(1, abs=tolerance)


def test_a_changed_rate_holds_at_once() -> None:
    plan = {
        "rates": rates(142e6),
        "set_rates": [["pe0-buf", "snic", 50e6]],
        "duration_s": 2.4,
        "flows": [flow("pe0-buf", "store0")],
    }
    assert goodput_share(plan, 50e6) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("tos", "taken", "spared"),
    [(MODEL_TOS, "1:10", "1:20"), (CTRL_TOS, "1:10", "1:20"), (KV_TOS, "1:20", "1:10")],
)
def test_dscp_picks_the_class_at_both_ends_and_in_both_directions(
    tos: int, taken: str, spared: str
) -> None:
    flows = [flow("pe0-gpu", "de0-gpu", "compute", tos)]
    report = run({"rates": rates(20e6), "duration_s": 0.4, "flows": flows})
    for link in ("pe0-gpu:cnic", "pe0:uplink", "de0:uplink", "de0-gpu:cnic"):
        ends, counters = report["classes"][link], report["counters"][link]
        for direction in ("sent", "received"):
            assert ends[direction][spared]["sent_bytes"] == 0, (link, direction)
            # The class counts a header for each segment, the interface one for each packet.
            assert ends[direction][taken]["sent_bytes"] >= counters[f"{direction}_bytes"] > 0
    sent = report["classes"]["pe0-gpu:cnic"]["sent"][taken]["sent_bytes"]
    acknowledged = report["classes"]["pe0-gpu:cnic"]["received"][taken]["sent_bytes"]
    assert sent > 20 * acknowledged


def test_model_traffic_goes_before_kv_on_a_full_link() -> None:
    flows = [
        flow("pe0-gpu", "de0-buf", "compute", KV_TOS),
        flow("pe0-gpu", "de0-buf", "compute", MODEL_TOS),
    ]
    kv_bps, model_bps = run({"rates": rates(20e6), "duration_s": 1.5, "flows": flows})[
        "goodput_bps"
    ]
    assert model_bps > 0.9 * 160e6
    assert 0 < kv_bps < 0.1 * 160e6


def test_without_qos_model_traffic_shares_the_class_of_kv() -> None:
    flows = [flow("pe0-gpu", "de0-gpu", "compute", MODEL_TOS)]
    report = run({"rates": rates(20e6), "qos": False, "duration_s": 0.3, "flows": flows})
    classes = report["classes"]["pe0-gpu:cnic"]["sent"]
    assert classes["1:10"]["sent_bytes"] == 0
    assert classes["1:20"]["sent_bytes"] > 0


def test_bytes_take_the_path_of_the_paper_and_no_other() -> None:
    flows = [flow("store0", "pe0-buf"), flow("pe0-buf", "pe0-gpu", "compute")]
    counters = run({"rates": rates(50e6), "duration_s": 0.5, "flows": flows})["counters"]
    moved = {link for link, value in counters.items() if value["received_packets"]}
    assert moved == {"store0:snic", "pe0-buf:snic", "pe0-buf:pcie", "pe0-gpu:cnic"}
    sent = counters["pe0-buf:pcie"]["sent_bytes"]
    assert counters["pe0-gpu:cnic"]["received_bytes"] == sent > 1_000_000


def test_incast_queues_at_the_switch_port_and_spares_other_links() -> None:
    flows = [flow("store0", "pe0-buf"), flow("de0-buf", "pe0-buf")]
    plan = {"rates": {**rates(50e6), "storage_bps": 400e6}, "duration_s": 1.0, "flows": flows}
    report = run(plan)
    assert report["classes"]["pe0-buf:snic"]["received"]["1:20"]["dropped_packets"] > 0
    assert report["classes"]["store0:snic"]["sent"]["1:20"]["dropped_packets"] == 0
