"""Who is where: addresses, ports, networks and marks of the transport's connections."""

import socket

import msgspec

from engines.errors import TransferError
from engines.real.frames import CLASSES
from engines.seams.transport import DSCP, TrafficClass

DATA_NETWORKS = ("storage", "compute")
CONTROL_NETWORK = "mgmt"


class TcpConfig(msgspec.Struct, frozen=True):
    """One host's end of the cluster's connections; times in target seconds.

    `directory` is host -> network ("storage", "compute", "mgmt") -> IPv4 address, with ":BASE"
    behind it where hosts have port bases of their own. Class i of MODEL, KV, CTRL listens on
    `port_base + i`, or BASE + i. `congestion` are names in order of preference.
    `deadline_s` bounds connecting and a send to a peer that takes nothing; `inbox_limit` the
    messages that wait for `receive`. Without `verify`, `check` accepts everything. `delays_s` are
    one-way delays of the way to and from a peer on data networks that the network itself lacks.
    `time_scale` real seconds are one target second.
    """

    host: str
    run_id: int
    epoch: int
    directory: dict[str, dict[str, str]]
    port_base: int = 9410
    congestion: tuple[str, ...] = ("cubic", "reno")
    deadline_s: float = 30.0
    close_deadline_s: float = 5.0
    inbox_limit: int = 1 << 16
    verify: bool = True
    delays_s: dict[str, float] = {}
    time_scale: float = 1.0


def listening(config: TcpConfig, traffic_class: TrafficClass) -> set[tuple[str, int]]:
    """Where this host can be reached in a class: addresses, each with its port."""
    own = config.directory[config.host]
    return {
        _endpoint(config, own[network], traffic_class)
        for network in _networks(traffic_class)
        if network in own
    }


def route(config: TcpConfig, peer: str, traffic_class: TrafficClass) -> tuple[str, tuple[str, int]]:
    """Own address, peer's address and port: management for CTRL, else a data network of both."""
    own = config.directory[config.host]
    theirs = config.directory.get(peer)
    if theirs is None:
        raise TransferError(f"{peer!r} is not in the directory of {config.host}")
    for network in _networks(traffic_class):
        if network in own and network in theirs:
            here, _ = _endpoint(config, own[network], traffic_class)
            return here, _endpoint(config, theirs[network], traffic_class)
    raise TransferError(
        f"{config.host} and {peer} share no network for class {traffic_class}; "
        f"they have {sorted(own)} and {sorted(theirs)}"
    )


def class_socket(config: TcpConfig, traffic_class: TrafficClass) -> socket.socket:
    """A socket that carries the class from its first SYN on; children of a listener inherit it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, DSCP[traffic_class] << 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None:  # a system that lets nobody choose
        return sock
    for name in config.congestion:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, name.encode())
        except OSError:
            continue
        return sock
    sock.close()
    raise TransferError(
        f"this kernel has none of the congestion controls {config.congestion}; "
        "name one from net.ipv4.tcp_available_congestion_control"
    )


def _endpoint(config: TcpConfig, word: str, traffic_class: TrafficClass) -> tuple[str, int]:
    address, _, base = word.partition(":")
    return address, (int(base) if base else config.port_base) + CLASSES.index(traffic_class)


def _networks(traffic_class: TrafficClass) -> tuple[str, ...]:
    return (CONTROL_NETWORK,) if traffic_class is TrafficClass.CTRL else DATA_NETWORKS
