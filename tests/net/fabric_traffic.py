"""PID 1 of a private namespace: builds 1P1D, sends the TCP flows asked for, reports as JSON.

argv[1], JSON: "rates" (arguments of link_rates), "topo", "qos", "set_rates" ([[host, nic, bps]]),
"idle_s", "duration_s", "flows" ([{"sender", "receiver", "network", "tos"}]).
"""

import json
import os
import select
import socket
import sys
import time
from typing import TypedDict

from testbed.fabric.private import hold_lifeline

hold_lifeline()

import msgspec  # noqa: E402

from testbed.fabric.fabric import Fabric, HostNet  # noqa: E402
from testbed.fabric.namespaces import join, joined  # noqa: E402
from testbed.fabric.rates import link_rates  # noqa: E402
from topologies.dualpath import DualPathTopo  # noqa: E402

CHUNK = bytes(1 << 18)
PORT = 5000


class Flow(TypedDict):
    sender: str
    receiver: str
    network: str
    tos: int


def pin(sock: socket.socket, tos: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)


def listener(host: HostNet, network: str, port: int, tos: int) -> socket.socket:
    """A listening socket in the host's namespace, opened by a short-lived visit."""
    with joined(host.netns_fd):
        sock = socket.socket()
    pin(sock, tos)
    sock.bind((host.addresses[network], port))
    sock.listen()
    return sock


def send_until(host: HostNet, ip: str, port: int, tos: int, duration_s: float) -> None:
    join(host.netns_fd)
    sock = socket.socket()
    pin(sock, tos)
    sock.connect((ip, port))
    deadline = time.monotonic() + duration_s
    sock.settimeout(duration_s + 5)
    while time.monotonic() < deadline:
        sock.send(CHUNK)
    sock.close()


def drain(sockets: list[socket.socket], duration_s: float) -> list[float]:
    """Receive everything; goodput in bit/s of each socket, over one window for all of them.

    The window leaves out slow start and the end, where a lost last segment waits for its timeout.
    """
    buffer = bytearray(1 << 17)
    start = time.monotonic() + 0.25 * duration_s
    end = start + 0.7 * duration_s
    counted = [0] * len(sockets)
    live = {sock: number for number, sock in enumerate(sockets)}
    while live:
        ready, _, _ = select.select(list(live), [], [], 30)
        for sock in ready:
            size = sock.recv_into(buffer)
            if size == 0:
                del live[sock]
            elif start < time.monotonic() <= end:
                counted[live[sock]] += size
    return [8 * size / (end - start) for size in counted]


def run_flows(fabric: Fabric, flows: list[Flow], duration_s: float) -> list[float]:
    listeners, children = [], []
    for number, flow in enumerate(flows):
        target, network = fabric.hosts[flow["receiver"]], flow["network"]
        port, tos = PORT + number, flow["tos"]
        listeners.append(listener(target, network, port, tos))
        child = os.fork()
        if child == 0:
            source = fabric.hosts[flow["sender"]]
            send_until(source, target.addresses[network], port, tos, duration_s)
            os._exit(0)
        children.append(child)
    rates = drain([sock.accept()[0] for sock in listeners], duration_s)
    for child in children:
        os.waitpid(child, 0)
    return rates


def main() -> None:
    plan = json.loads(sys.argv[1])
    topo = DualPathTopo(1, 1, **plan.get("topo", {}))
    fabric = Fabric(topo, link_rates(topo.shape, **plan["rates"]), qos=plan.get("qos", True))
    fabric.start()
    for owner, nic, bps in plan.get("set_rates", []):
        fabric.set_link((owner, nic), payload_bps=bps)
    if plan.get("idle_s"):
        select.select([], [], [], plan["idle_s"])
    rates = run_flows(fabric, plan.get("flows", []), plan.get("duration_s", 1.0))
    report = {
        "goodput_bps": rates,
        "counters": {":".join(link): value for link, value in fabric.counters().items()},
        "classes": {":".join(link): value for link, value in fabric.class_counters().items()},
    }
    sys.stdout.write(msgspec.json.encode(report).decode())


main()
