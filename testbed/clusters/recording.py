"""Captures in a live cluster, from outside of it: its packet socket comes to us, we stay here."""

import json
import socket
import subprocess
import sys
from pathlib import Path

from testbed.cli.clusters import link_id
from testbed.clusters.client import Cluster
from testbed.clusters.protocol import LAB
from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric import packet_socket
from testbed.fabric.capture import SNAPLEN_BYTES, Capture, PacketSocket
from testbed.fabric.enter import enter_command
from testbed.yamlfile import nearest

_NAMES_BYTES = 1 << 16


def record(
    cluster: Cluster,
    where: str,
    path: Path | str,
    *,
    snaplen: int = SNAPLEN_BYTES,
    count: int | None = None,
    seconds: float | None = None,
) -> Capture:
    """A capture on HOST:IF, open and under way; `lab:PORT` and `pe0:uplink` are known too.

    Raises InputError for a host or interface that is not there, EnvironmentUnfit if the kernel
    refuses the socket.
    """
    owner, nic = link_id(where)
    hosts = {host.name: host.nics for host in cluster.look().hosts}
    if owner not in hosts and nic == "uplink":
        owner, nic = LAB, f"{owner}-{nic}"
    if owner != LAB and owner not in hosts:
        raise InputError(f"no host {owner!r}; {nearest(owner, [*hosts, LAB], 'host')}")
    source = socket_of(cluster, owner)
    if nic not in source.interfaces:
        source.close()
        raise InputError(
            f"no interface {where!r}; {nearest(nic, source.interfaces, f'interface of {owner}')}"
        )
    return Capture(source, nic, path, snaplen, count, seconds, label=where)


class _Helper:
    """The program in the cluster that opened the socket; it ends with the cluster, or with us."""

    def __init__(self, channel: socket.socket, process: "subprocess.Popen[str]") -> None:
        self._channel, self._process = channel, process

    def fileno(self) -> int:
        """Readable once the program has ended."""
        return self._channel.fileno()

    def close(self) -> str:
        """Have it end; returns what it had to say."""
        self._channel.close()
        _, words = self._process.communicate()
        return words.strip()


def socket_of(cluster: Cluster, host: str) -> PacketSocket:
    """A packet socket of a host's network, opened by a program there, and that program."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, cluster.enter(host) as namespaces:
        program = [sys.executable, "-I", packet_socket.__file__, str(theirs.fileno())]
        started = subprocess.Popen(
            enter_command(namespaces, program, Path.cwd()), start_new_session=True,
            pass_fds=(*namespaces, theirs.fileno()), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    helper = _Helper(ours, started)
    names, fds, _, _ = socket.recv_fds(ours, _NAMES_BYTES, 1)
    if not fds:
        raise EnvironmentUnfit(f"{host}: {helper.close() or 'no packet socket came'}")
    return PacketSocket(socket.socket(fileno=fds[0]), json.loads(names), helper)
