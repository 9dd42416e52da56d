"""PID 1 of a private namespace: captures with limits, refusals, and one that is killed; as JSON.

argv[1] is a folder. store0 floods pe0-buf with UDP of 1000 B, which nobody reads there.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from testbed.fabric.private import die_with_parent, hold_lifeline

hold_lifeline()

from testbed.errors import DualPathError  # noqa: E402
from testbed.fabric.capture import Capture, CaptureEnd  # noqa: E402
from testbed.fabric.fabric import Fabric  # noqa: E402
from testbed.fabric.namespaces import join, joined, open_current  # noqa: E402
from testbed.fabric.rates import link_rates  # noqa: E402
from topologies.dualpath import DualPathTopo  # noqa: E402

PORT, SIZE_BYTES = 7000, 1000
KILL_BEYOND_BYTES = 2_000_000


def flood(fabric: Fabric, once: int = 0) -> int:
    """A child that sends datagrams, so many or until it is ended."""
    child = os.fork()
    if child:
        return child
    die_with_parent()
    join(fabric.hosts["store0"].netns_fd)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    target = fabric.hosts["pe0-buf"].addresses["storage"], PORT
    sent = 0
    while not once or sent < once:
        sock.sendto(bytes(SIZE_BYTES), target)
        sent += 1
    os._exit(0)


def stop(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def refused(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except DualPathError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def killed(netns_fd: int, path: Path) -> int:
    """A capture that SIGKILL ends in mid-flow; the size that its file had by then, at least."""
    child = os.fork()
    if child == 0:
        die_with_parent()
        Capture(netns_fd, "snic", path).run(lambda: False)
    while not path.exists() or path.stat().st_size < KILL_BEYOND_BYTES:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.01)  # between two looks at the file
    stop(child)
    return path.stat().st_size


def ended_by_stop(fabric: Fabric, path: Path) -> CaptureEnd:
    """A hundred datagrams, and a stop once the last of them is over the link: none is missing."""
    capture = Capture(fabric.hosts["store0"].netns_fd, "snic", path)
    sender = flood(fabric, once=100)
    end = capture.run(lambda: fabric.counters()["store0", "snic"].sent_packets >= 100)
    os.waitpid(sender, 0)
    return end


def main() -> None:
    folder = Path(sys.argv[1])
    topo = DualPathTopo(1, 1)
    rates = link_rates(
        topo.shape, snic_bps=50e6, cnic_bps=50e6, pcie_bps=50e6, uplink_bps=50e6, storage_bps=50e6
    )
    fabric = Fabric(topo, rates)
    fabric.start()
    net = fabric.hosts["pe0-buf"].netns_fd
    with joined(net):
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("", PORT))  # or the kernel would answer
    ends = {"stop": ended_by_stop(fabric, folder / "stop.pcapng")}
    sender = flood(fabric)
    never = lambda: False  # noqa: E731
    ends["count"] = Capture(net, "snic", folder / "count.pcapng", count=50).run(never)
    ends["seconds"] = Capture(net, "snic", folder / "seconds.pcapng", seconds=0.3).run(never)
    short = Capture(net, "snic", folder / "short.pcapng", snaplen=64, count=20)
    ends["short"] = short.run(never)
    with Capture(net, "snic", folder / "child.pcapng", count=10).in_background() as end:
        while (folder / "child.pcapng").stat().st_size < 10 * SIZE_BYTES:
            time.sleep(0.01)  # between two looks at the file
    ends["child"] = end()
    size = killed(net, folder / "killed.pcapng")
    stop(sender)
    report = {
        "killed_bytes": size,
        "refused": [
            refused(lambda: Capture(net, "snicc", folder / "no.pcapng")),
            refused(lambda: Capture(net, "snic", folder / "none" / "no.pcapng")),
            refused(lambda: Capture(net, "snic", folder / "no.pcapng", snaplen=10)),
            refused(lambda: Capture(open_current(), "lo", folder / "no.pcapng")),
        ],
        "left": [path.name for path in folder.glob("no*")],
        "ends": {name: [end.packets, end.dropped, end.cut, end.why] for name, end in ends.items()},
    }
    sys.stdout.write(json.dumps(report))


main()
