"""Stock Mininet's command line on a cluster that lives in another process.

Nodes are Mininet's own; only how they start a process differs: through `enter.py`, where Mininet
would have called mnexec.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import testbed.fabric.nodes  # noqa: F401  first: then Mininet loads without its programs
from testbed.fabric.addresses import NicAddress
from testbed.fabric.enter import Manner, Namespaces, enter_command

from mininet.cli import CLI  # isort: skip
from mininet.link import Intf, Link  # isort: skip
from mininet.log import setLogLevel  # isort: skip
from mininet.net import Mininet  # isort: skip
from mininet.node import Node  # isort: skip

Enter = Callable[[str], Namespaces]


class AttachedNode(Node):  # type: ignore[misc]
    """A host of a live cluster, or the lab that holds its switches."""

    def __init__(self, name: str, enter: Enter, **params: Any) -> None:
        self._enter = enter
        super().__init__(name, **params)

    def _popen(self, cmd: list[str], **params: Any) -> "subprocess.Popen[bytes]":
        """Mininet's only way to start a process: `mnexec OPTIONS PROGRAM...` in this node."""
        shell = params.get("stdin") == getattr(self, "slave", object())  # a terminal of its own
        if cmd[0] == "mnexec":
            cmd = cmd[3:] if "a" in cmd[1] else cmd[2:]  # -a is followed by a process id
        params.pop("close_fds", None)
        with self._enter(self.name) as namespaces:
            manner = Manner.SESSION if shell else Manner.BOUND
            command = enter_command(namespaces, cmd, Path.cwd(), manner)
            return subprocess.Popen(command, pass_fds=namespaces, start_new_session=True, **params)

    def config(self, **_params: Any) -> dict[str, Any]:
        """Nothing: the cluster is up."""
        return {}

    def defaultIntf(self) -> Intf | None:
        """The management NIC, on which all hosts reach each other."""
        return self.nameToIntf.get("mgmt") or super().defaultIntf()

    def connected(self) -> bool:
        """For Mininet's waitConnected."""
        return True


class _LiveIntf(Intf):  # type: ignore[misc]
    """An interface that exists."""

    def __init__(self, name: str, node: Node, nic: NicAddress | None) -> None:
        super().__init__(name, node=node, moveIntfFn=Link._ignore)
        if nic is not None:
            self.ip, self.prefixLen, self.mac = nic.ip, nic.prefix_bits, nic.mac

    def config(self, **_params: Any) -> dict[str, Any]:
        """Nothing: it is up."""
        return {}

    def updateIP(self) -> str | None:
        """The address it was given."""
        return self.ip

    def updateMAC(self) -> str | None:
        """The hardware address it was given."""
        return self.mac


class _LiveLink(Link):  # type: ignore[misc]
    """A veth pair that exists."""

    def __init__(self, near: _LiveIntf, far: _LiveIntf) -> None:
        self.intf1, self.intf2 = near, far
        near.link = far.link = self

    def delete(self) -> None:
        """Not ours to delete."""


class _Dashed(CLI):  # type: ignore[misc]
    """Mininet's CLI takes a line's first word as a node; ours have dashes in their names."""

    identchars = CLI.identchars + "-"


def attach(
    hosts: Mapping[str, Mapping[str, NicAddress]], switches: Mapping[str, str], enter: Enter
) -> Mininet:
    """Mininet's view of a live cluster; `switches` has the far end of each link by `owner:nic`."""
    net = Mininet(build=False, controller=None)
    net.waitConn = False
    nodes = [f"{key.removesuffix(':uplink')}-sw" for key in switches if ":uplink" in key]
    for name in sorted({*switches.values(), *nodes}):
        net.switches.append(node := AttachedNode(name, enter))
        net.nameToNode[name] = node
    for name, nics in hosts.items():
        node = net.addHost(name, cls=AttachedNode, enter=enter)
        for nic, address in nics.items():
            far = _LiveIntf(f"{name}-{nic}", net[switches[f"{name}:{nic}"]], None)
            net.links.append(_LiveLink(_LiveIntf(nic, node, address), far))
    for owner, switch in (
        (key.removesuffix(":uplink"), far) for key, far in switches.items() if ":uplink" in key
    ):
        near = _LiveIntf(f"{owner}-uplink", net[f"{owner}-sw"], None)
        net.links.append(_LiveLink(near, _LiveIntf(f"{owner}-spine", net[switch], None)))
    return net


def command_line(net: Mininet, script: str | None) -> None:
    """Mininet's prompt until the user leaves it, or a file of its commands."""
    setLogLevel("info")
    for number in (signal.SIGHUP, signal.SIGTERM):  # Mininet takes a KeyboardInterrupt for Ctrl-C
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        _Dashed(net, script=script)
    finally:
        for node in net.values():
            node.terminate()
        sys.stdout.flush()
