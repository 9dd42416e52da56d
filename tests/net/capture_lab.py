"""PID 1 of a private namespace: real transports on 1P1D, captured and counted; reports as JSON.

argv[1], JSON: "folder", "links" ([host, nic] to capture), "mis_mark" (host -> the DSCP that its
KV gets instead), "snaplen", "rates" (link_rates), "blocks". store0 writes requests 17 and 18 to
pe0-buf, which passes 17 on to pe0-gpu, layer by layer; the two GPUs exchange barriers.
"""

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from testbed.fabric.private import die_with_parent, hold_lifeline

hold_lifeline()

import anyio  # noqa: E402
import msgspec  # noqa: E402

from engines.kv import Span  # noqa: E402
from engines.layout import KvLayout  # noqa: E402
from engines.messages import Barrier, LayerLoaded, Pull, ReadDone  # noqa: E402
from engines.real import routes  # noqa: E402
from engines.real.clock import RealClock  # noqa: E402
from engines.real.pool import KvPool  # noqa: E402
from engines.real.tcp import TcpConfig, TcpTransport  # noqa: E402
from engines.seams.transport import TrafficClass, Write  # noqa: E402
from testbed.capture.agree import since  # noqa: E402
from testbed.fabric.capture import SNAPLEN_BYTES, Capture  # noqa: E402
from testbed.fabric.fabric import Fabric, HostNet  # noqa: E402
from testbed.fabric.namespaces import join  # noqa: E402
from testbed.fabric.rates import link_rates  # noqa: E402
from topologies.dualpath import DualPathTopo  # noqa: E402

LAYOUT = KvLayout(token_scale=64, block_tokens=64, layers=4, width=2048)
BARRIERS, LOAD_BYTES = 40, 2048


class NoKeys:
    """Nothing is sealed here."""

    def keys(self, content: bytes, first_block: int, count: int) -> range:
        return range(count)


def span(region: str, blocks: int) -> Span:
    return Span(region, 0, 0, blocks * LAYOUT.block_tokens, 0, LAYOUT.layers)


async def store(host: TcpTransport, blocks: int) -> None:
    for request in (17, 18):
        source, target = span("store", blocks), span("dram", blocks)
        note = ReadDone(request, target)
        await host.write("pe0-buf", [Write(source, target, note, request)], deadline_s=60)


async def buffer(host: TcpTransport, blocks: int) -> None:
    for _ in range(2):
        await host.receive()
    whole, into = span("dram", blocks), span("hbm", blocks)
    host.post("pe0-gpu", Pull(17, whole, into, 0, blocks * LAYOUT.block_tokens))
    writes = [
        Write(whole.layer(layer), into.layer(layer),
              LayerLoaded(17, layer, 0, blocks * LAYOUT.block_tokens), 17)
        for layer in range(LAYOUT.layers)
    ]  # fmt: skip
    await host.write("pe0-gpu", writes, deadline_s=60)


async def gpu(host: TcpTransport, peer: str, others: int) -> None:
    for step in range(BARRIERS):
        barrier = Barrier(step, step % 4, 0.0, bytes(LOAD_BYTES))
        host.post(peer, barrier, TrafficClass.MODEL)
    for _ in range(BARRIERS + others):
        await host.receive()


def roles(blocks: int) -> dict[str, tuple[str, Callable[[TcpTransport], Awaitable[None]]]]:
    return {
        "store0": ("store", lambda host: store(host, blocks)),
        "pe0-buf": ("dram", lambda host: buffer(host, blocks)),
        "pe0-gpu": ("hbm", lambda host: gpu(host, "de0-gpu", LAYOUT.layers + 1)),
        "de0-gpu": ("hbm", lambda host: gpu(host, "pe0-gpu", 0)),
    }


def host_process(net: HostNet, config: TcpConfig, plan: dict[str, Any], out: int) -> None:
    die_with_parent()
    join(net.netns_fd)
    if net.name in plan["mis_mark"]:
        marks = {**routes.DSCP, TrafficClass.KV: plan["mis_mark"][net.name]}
        routes.DSCP = marks  # type: ignore[misc]  # the fault that is to be found
    region, play = roles(plan["blocks"])[net.name]

    async def main() -> None:
        with anyio.fail_after(60):
            transport = TcpTransport(config, RealClock(time.monotonic(), 1.0), NoKeys())
            async with transport as host:
                pool = KvPool(region, LAYOUT, plan["blocks"] * LAYOUT.block_tokens)
                host.register(pool)
                await play(host)
                host.quiesce()
            os.write(out, json.dumps([net.name, transport.account()]).encode() + b"\n")

    anyio.run(main, backend_options={"use_uvloop": True})
    os._exit(0)


def play(fabric: Fabric, plan: dict[str, Any]) -> dict[str, dict[str, int]]:
    names = list(roles(1))
    directory = {name: fabric.hosts[name].addresses for name in names}
    read, write = os.pipe()
    children = []
    for name in names:
        child = os.fork()
        if child == 0:
            host_process(fabric.hosts[name], TcpConfig(name, 5, 1, directory), plan, write)
        children.append(child)
    os.close(write)
    with os.fdopen(read) as told:
        accounts = dict(json.loads(line) for line in told)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    return accounts


def await_silence(fabric: Fabric) -> None:
    """Until kernels have said goodbye for processes that are gone: nothing passes any more."""
    deadline_s, last, now = time.monotonic() + 10, None, fabric.class_counters()
    while now != last and time.monotonic() < deadline_s:
        time.sleep(0.1)
        last, now = now, fabric.class_counters()


def main() -> None:
    plan = {"mis_mark": {}, "snaplen": SNAPLEN_BYTES, "blocks": 64, **json.loads(sys.argv[1])}
    topo = DualPathTopo(1, 1)
    fabric = Fabric(topo, link_rates(topo.shape, **plan["rates"]))
    fabric.start()
    before = fabric.class_counters()
    ends = {}
    with ExitStack() as stack:
        for host, nic in plan["links"]:
            path = os.path.join(plan["folder"], f"{host}-{nic}.pcapng")
            capture = Capture(
                fabric.hosts[host].netns_fd, nic, path, plan["snaplen"], label=f"{host}:{nic}"
            )
            ends[host, nic] = stack.enter_context(capture.in_background())
        accounts = play(fabric, plan)
        await_silence(fabric)
    after = fabric.class_counters()
    report = {
        "accounts": accounts,
        "ends": {":".join(link): end() for link, end in ends.items()},
        "classes": {":".join(link): since(before[link], after[link]) for link in ends},
        "addresses": {name: host.addresses for name, host in fabric.hosts.items()},
    }
    sys.stdout.write(msgspec.json.encode(report).decode())


main()
