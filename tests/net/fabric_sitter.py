"""PID 1 of a private namespace: builds 1P1D, forks a host process, and stays until it is ended.

As `launch`: the supervisor of that.
"""

import json
import os
import signal
import sys

from testbed.fabric.private import hold_lifeline, start_private
from testbed.fabric.privilege import mode


def sit() -> None:
    hold_lifeline()
    from testbed.fabric.fabric import Fabric
    from testbed.fabric.namespaces import join
    from testbed.fabric.rates import link_rates
    from topologies.dualpath import DualPathTopo

    topo = DualPathTopo(1, 1)
    rates = link_rates(topo.shape, snic_bps=1e8, cnic_bps=1e9, pcie_bps=1e9, uplink_bps=1e9)
    fabric = Fabric(topo, rates)
    fabric.start()
    if os.fork() == 0:
        join(fabric.hosts["pe0-gpu"].netns_fd)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    inodes = [os.fstat(host.netns_fd).st_ino for host in fabric.hosts.values()]
    kinds = ["net", "pid", "mnt"]
    if mode() == "rootless":  # as root the user namespace is the machine's
        kinds.append("user")
    inodes += [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in kinds]
    sys.stdout.write(json.dumps(inodes) + "\n")
    sys.stdout.flush()
    while True:
        signal.pause()


def launch() -> None:
    process = start_private([sys.executable, __file__, "sit"])
    process.popen.wait()


{"sit": sit, "launch": launch}[sys.argv[1]]()
