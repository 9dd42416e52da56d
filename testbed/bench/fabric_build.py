"""PID 1 that builds a network of hosts, says how long it took and what came of it, and waits."""

import sys
import time
from pathlib import Path

from testbed.fabric.private import hold_lifeline

hold_lifeline()

import msgspec  # noqa: E402

from testbed.bench.fabric_jobs import Build, Built  # noqa: E402
from testbed.fabric import tclink  # noqa: E402
from testbed.fabric.fabric import Fabric  # noqa: E402
from testbed.fabric.rates import LinkRates  # noqa: E402
from topologies.star import NICS, StarTopo  # noqa: E402


def _ours(job: Build) -> None:
    topo = StarTopo(job.hosts, tuple(NICS))
    rates = {(f"h{number}", nic): job.bps for number in range(job.hosts) for nic in NICS}
    Fabric(topo, LinkRates({**rates})).start()


def main() -> None:
    """Build what argv[1] says; both are timed from the first node to the last link's shaping."""
    job = msgspec.json.decode(sys.argv[1], type=Build)
    began_s = time.monotonic()
    if job.stock:
        tclink.build(job.hosts, job.bps / 1e6)
    else:
        _ours(job)
    took_s = time.monotonic() - began_s
    ports = [line for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    sys.stdout.write(msgspec.json.encode(Built(took_s, len(ports))).decode() + "\n")
    sys.stdout.flush()
    while True:
        time.sleep(3600)


main()
