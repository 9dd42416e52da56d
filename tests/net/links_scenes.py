"""PID 1 of a private namespace: builds a cluster, plays one scene on it, reports as JSON.

argv[1] names the scene, a function below.
"""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from testbed.fabric.private import hold_lifeline

hold_lifeline()

import msgspec  # noqa: E402

from testbed.errors import TestbedError  # noqa: E402
from testbed.fabric import marks  # noqa: E402
from testbed.fabric.calibrate import calibrate  # noqa: E402
from testbed.fabric.fabric import Fabric  # noqa: E402
from testbed.fabric.namespaces import joined  # noqa: E402
from testbed.fabric.netlink import attributes  # noqa: E402
from testbed.fabric.rates import LinkRates, link_rates  # noqa: E402
from topologies.dualpath import DualPathTopo  # noqa: E402

KV_TOS, MODEL_TOS = 0x20, 0xB8
PORT = 5001
DEADLINE_S = 20.0
CNIC = ("pe0-gpu", "cnic")


def cluster(bps: float = 2e7, qos: bool = True, overrides: Any = None) -> Fabric:
    topo = DualPathTopo(1, 1)
    rates = link_rates(
        topo.shape, snic_bps=bps, cnic_bps=bps, pcie_bps=bps, uplink_bps=bps, storage_bps=bps,
        overrides=overrides,
    )  # fmt: skip
    fabric = Fabric(topo, rates, qos)
    fabric.start()
    return fabric


def kernel_rates(fabric: Fabric) -> dict[str, list[int]]:
    """Bytes/s of class 1:1 at both ends of every link, as the kernel has them; 0 if there is none.

    struct tc_htb_opt begins with a tc_ratespec, whose rate is its last word.
    """
    found = {}
    for link in fabric._links.of.values():
        at_ends = []
        for end in link.ends:
            rate = 0
            for body in end.socket.dump_classes(end.index):
                if struct.unpack_from("=I", body, 8)[0] == 0x10001:
                    options = attributes(attributes(body[20:])[2])
                    rate = struct.unpack_from("=I", options[1], 8)[0]
            at_ends.append(rate)
        found[":".join(link.link_id)] = at_ends
    return found


def told(fabric: Fabric) -> dict[str, Any]:
    return {":".join(link.link_id): link for link in fabric.links()}


def refusal(act: Callable[[], object]) -> list[Any]:
    try:
        act()
    except TestbedError as error:
        return [error.exit_code, str(error)]
    return [0, ""]


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(what)


class Bulk:
    """A TCP flow from one host to another that goes on until it is stopped."""

    def __init__(self, fabric: Fabric, sender: str, receiver: str, tos: int | None) -> None:
        target = fabric.hosts[receiver]
        with joined(target.netns_fd):
            listener = socket.socket()
        with joined(fabric.hosts[sender].netns_fd):
            self._sender = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for sock in (listener, self._sender):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            sock.settimeout(DEADLINE_S)
            if tos is not None:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        listener.bind((target.addresses["compute"], PORT))
        listener.listen()
        self._sender.connect(listener.getsockname())
        self._receiver = listener.accept()[0]
        listener.close()
        self.sent_bytes = self.received_bytes = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=act) for act in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        chunk = bytes(1 << 14)
        while not self._stop.is_set():
            self.sent_bytes += self._sender.send(chunk)
        self._sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        while data := self._receiver.recv(1 << 17):
            self.received_bytes += len(data)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._sender.close()
        self._receiver.close()


@contextmanager
def bulk(fabric: Fabric, tos: int | None, receiver: str = "de0-gpu") -> Iterator[Bulk]:
    flow = Bulk(fabric, CNIC[0], receiver, tos)
    try:
        yield flow
    finally:
        flow.stop()


def one_value_changes() -> dict[str, Any]:
    fabric = cluster()
    before = told(fabric), kernel_rates(fabric)
    answer = fabric.set_link(CNIC, payload_bps=5e7)
    changed = told(fabric), kernel_rates(fabric)
    fabric.set_link(("pe0", "uplink"), payload_bps=3e7)
    fabric.reset_link(CNIC)
    one_reset = told(fabric)
    fabric.reset()
    return {
        "before": before, "answer": answer, "changed": changed, "one_reset": one_reset,
        "reset": (told(fabric), kernel_rates(fabric)),
    }  # fmt: skip


def unshaped_link() -> dict[str, Any]:
    fabric = cluster(overrides={CNIC: None})
    before = told(fabric)["pe0-gpu:cnic"], kernel_rates(fabric)["pe0-gpu:cnic"]
    fabric.set_link(CNIC, payload_bps=4e7)
    shaped = told(fabric)["pe0-gpu:cnic"], kernel_rates(fabric)["pe0-gpu:cnic"]
    measured = [one for one in calibrate(fabric) if one.asked_bps == 4e7]
    fabric.reset()
    reset = told(fabric)["pe0-gpu:cnic"], kernel_rates(fabric)["pe0-gpu:cnic"]
    return {"before": before, "shaped": shaped, "measured": measured, "reset": reset}


def refused() -> dict[str, Any]:
    fabric = cluster()
    before = told(fabric), kernel_rates(fabric)
    refusals = {
        "unknown": refusal(lambda: fabric.set_link(("pe0-gpu", "cnik"), payload_bps=1e7)),
        "unknown reset": refusal(lambda: fabric.reset_link(("pe0", "up"))),
        "beyond": refusal(lambda: fabric.set_link(CNIC, payload_bps=4e12)),
        "slow": refusal(lambda: fabric.set_link(CNIC, payload_bps=99e3)),
        "no number": refusal(lambda: fabric.set_link(CNIC, payload_bps=float("nan"))),
        "negative": refusal(lambda: fabric.set_link(CNIC, delay_s=-1.0)),
        "host": refusal(lambda: fabric.popen("pe0-gpi", ["true"])),
        "mark host": refusal(lambda: fabric.mark("nobody", "tcp", 1, 46)),
        "mark protocol": refusal(lambda: fabric.mark(None, "icmp", 1, 46)),
        "mark port": refusal(lambda: fabric.mark(None, "tcp", 0, 46)),
        "mark dscp": refusal(lambda: fabric.mark(None, "tcp", 1, 64)),
        "unmark": refusal(lambda: fabric.unmark(None, "tcp", 1)),
    }
    return {
        "refusals": refusals, "before": before, "after": (told(fabric), kernel_rates(fabric)),
        "marks": fabric.marks(),
    }  # fmt: skip


def delayed() -> dict[str, Any]:
    fabric = cluster()
    before = told(fabric), kernel_rates(fabric)
    refused = refusal(lambda: fabric.set_link(CNIC, delay_s=0.02))
    return {"refused": refused, "before": before, "after": (told(fabric), kernel_rates(fabric))}


def switched_classes() -> dict[str, Any]:
    """A MODEL flow on a full link while classes go off and on again."""
    fabric = cluster(2e6)

    def counted() -> dict[str, Any]:
        return fabric.class_counters()[CNIC].sent

    def moved(name: str, since: dict[str, Any]) -> bool:
        return counted()[name].sent_bytes - since[name].sent_bytes > 100_000

    with bulk(fabric, MODEL_TOS) as flow:
        wait_for("a queue in MODEL", lambda: counted()["1:10"].backlog_bytes > 0)
        on = counted()
        fabric.set_qos(False)
        wait_for("KV to carry it", lambda: moved("1:20", on))
        wait_for("what waited in MODEL", lambda: counted()["1:10"].backlog_bytes == 0)
        off = counted()
        wait_for("KV to go on", lambda: moved("1:20", off))
        still_off, was_on = counted(), fabric.qos
        fabric.set_qos(True)
        wait_for("MODEL to carry it", lambda: moved("1:10", off))
        wait_for("what waited in KV", lambda: counted()["1:20"].backlog_bytes == 0)
        again = counted()
        wait_for("MODEL to go on", lambda: moved("1:10", again))
        fabric.reset()
    return {
        "on": on, "off": off, "still_off": still_off, "again": again, "last": counted(),
        "flow": [flow.sent_bytes, flow.received_bytes], "qos": [was_on, fabric.qos],
    }  # fmt: skip


def marked_by_port(only_host: str | None = None, u32: bool = False) -> dict[str, Any]:
    """An unmarked flow; then its port is marked, and then no more."""
    if u32:
        marks.nftables_work = lambda _fd: False
    fabric = cluster()
    link = fabric._links.find(("pe0", "uplink"))

    def counted() -> dict[str, list[int]]:
        ends = fabric._links.class_counters()[link.link_id]
        return {
            name: [ends.sent[name].sent_packets, ends.received[name].sent_packets]
            for name in ("1:10", "1:20")
        }

    def moved(name: str, since: dict[str, list[int]]) -> bool:
        return counted()[name][0] - since[name][0] > 50

    story = []
    with bulk(fabric, None):
        wait_for("KV to carry it", lambda: moved("1:20", {"1:20": [0, 0]}))
        fabric.mark(only_host, "udp", PORT, 46)
        fabric.mark(only_host, "tcp", PORT + 1, 46)
        before = counted()
        wait_for("KV to go on", lambda: moved("1:20", before))
        story.append(counted())
        mark = fabric.mark(only_host, "tcp", PORT, 46)
        wait_for("MODEL to carry it", lambda: moved("1:10", story[0]))
        first = counted()
        wait_for("MODEL to go on", lambda: moved("1:10", first))
        story += [first, counted()]
        there = fabric.marks()
        fabric.unmark(only_host, "tcp", PORT, 46)
        before = counted()
        wait_for("KV to carry it again", lambda: moved("1:20", before))
        first = counted()
        wait_for("KV to carry it alone", lambda: moved("1:20", first))
        story += [first, counted()]
    return {"story": story, "mark": mark, "marks": there, "left": fabric.marks()}


def marked_by_u32() -> dict[str, Any]:
    return marked_by_port(u32=True)


def one_host_marked() -> dict[str, Any]:
    return marked_by_port("pe0-gpu")


def one_host_marked_by_u32() -> dict[str, Any]:
    return marked_by_port("pe0-gpu", u32=True)


def calibrated() -> dict[str, Any]:
    fabric = cluster(1e7, overrides={("pe0", "uplink"): 1e9})
    before = told(fabric), kernel_rates(fabric)
    measured, fastest = calibrate(fabric), calibrate(fabric, only_fastest=True)
    return {
        "measured": measured, "fastest": fastest,
        "before": before, "after": (told(fabric), kernel_rates(fabric)),
        "counters": [
            [one.sent_bytes, one.received_bytes, one.sent_packets, one.received_packets]
            for one in fabric.counters().values()
        ],
        "classes": [
            [one.sent_bytes, one.sent_packets, one.dropped_packets]
            for link in fabric.class_counters().values()
            for end in (link.sent, link.received)
            for one in end.values()
        ],
    }  # fmt: skip


def calibration_refused() -> dict[str, Any]:
    topo = DualPathTopo(1, 1)
    fabric = Fabric(topo, LinkRates({("pe0-buf", "snic"): 2e7, ("pe0", "uplink"): 4e12}))
    fabric.start()
    before = told(fabric), kernel_rates(fabric)
    refused = refusal(lambda: calibrate(fabric))
    return {"refused": refused, "before": before, "after": (told(fabric), kernel_rates(fabric))}


def backlogged() -> dict[str, Any]:
    fabric = cluster(1e6)
    idle = fabric.backlogs()
    with bulk(fabric, KV_TOS):
        wait_for("a queue", lambda: fabric.backlogs()[CNIC][0] > 0)
        found = fabric.backlogs()
        fabric.set_link(CNIC, payload_bps=2e7)
        fabric.set_link(("de0-gpu", "cnic"), payload_bps=2e7)
    return {
        "idle": {":".join(link): ends for link, ends in idle.items()},
        "found": {":".join(link): ends for link, ends in found.items()},
    }


def foreign_process() -> dict[str, Any]:
    fabric = cluster()
    started = []

    def start() -> None:
        argv = ["readlink", "/proc/self/ns/net"]
        started.append(fabric.popen("pe0-gpu", argv, stdout=subprocess.PIPE, text=True))
        started.append(fabric.popen("pe0-gpu", ["cat"], stdin=subprocess.PIPE))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    namespace = started[0].communicate()[0].strip()
    alive = started[1].poll() is None
    started[1].communicate()
    return {
        "namespace": namespace,
        "host": f"net:[{os.fstat(fabric.hosts['pe0-gpu'].netns_fd).st_ino}]",
        "alive_after_its_thread": alive,
        "code": started[1].returncode,
    }


sys.stdout.write(msgspec.json.encode(globals()[sys.argv[1]]()).decode())
