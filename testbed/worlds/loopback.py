"""The lab of `--fabric loopback`: hosts on addresses of this machine alone, links without shape.

Run as `python -m testbed.worlds.loopback RUN_FOLDER` by the supervisor. It needs no privilege, no
namespace and no kernel feature beyond TCP. No kernel counts what a host moved, so the transports
do: each end of each pair its own bytes, which a topology's paths spread over the ports.
"""

import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engines.seams.transport import TrafficClass
from testbed.fabric.counters import LinkClasses, LinkCounters
from testbed.fabric.wire import KV_CLASS, MODEL_CLASS, ClassCounters
from testbed.worlds.account import HostAccount
from testbed.worlds.forkserver import ForkServer
from testbed.worlds.lab import Lab, play
from testbed.worlds.plan import WirePlan
from testbed.worlds.reserve import Reservation, reserve
from testbed.worlds.tied import hold_group
from topologies.shape import ClusterShape, Port

LinkId = tuple[str, str]
MGMT = "mgmt"


class LoopbackPlace(msgspec.Struct, frozen=True):
    """A host that shares the lab's network."""

    addresses: dict[str, str]
    netns_fd: None = None


class LoopbackNetwork:
    """The cluster's hosts on reserved addresses; counts what their accounts in `folder` say.

    While a host runs it has no account, so counters are complete when all have ended.
    """

    def __init__(self, shape: ClusterShape, reservation: Reservation, folder: Path) -> None:
        self.hosts = {
            host: LoopbackPlace(addresses) for host, addresses in reservation.directory.items()
        }
        self._reservation = reservation  # what it holds is free again when it is dropped
        self._shape = shape
        self._folder = folder
        self._accounts: dict[Path, HostAccount] = {}

    def counters(self) -> dict[LinkId, LinkCounters]:
        """Bytes of frames in every class, and on management links."""
        moved: Counter[Port] = Counter()
        for port, _, _, frame_bytes in self._moved():
            moved[port] += frame_bytes
        links = [*self._shape.data_links(), *((host, MGMT) for host in self.hosts)]
        return {
            (owner, nic): LinkCounters(
                received_bytes=moved[Port(owner, nic, "rx")],
                received_packets=0,  # frames of the transport have no headers to be taken off
                sent_bytes=moved[Port(owner, nic, "tx")],
                sent_packets=0,
            )
            for owner, nic in links
        }

    def class_counters(self) -> dict[LinkId, LinkClasses]:
        """Payload of KV, and frames of MODEL, which are messages."""
        moved: Counter[tuple[Port, str]] = Counter()
        for port, traffic_class, payload_bytes, frame_bytes in self._moved():
            if traffic_class is TrafficClass.KV:
                moved[port, KV_CLASS] += payload_bytes
            else:
                moved[port, MODEL_CLASS] += frame_bytes

        def classes(port: Port) -> dict[str, ClassCounters]:
            return {
                name: ClassCounters(moved[port, name], 0, 0, 0) for name in (MODEL_CLASS, KV_CLASS)
            }

        return {
            (owner, nic): LinkClasses(
                sent=classes(Port(owner, nic, "tx")), received=classes(Port(owner, nic, "rx"))
            )
            for owner, nic in self._shape.data_links()
        }

    @property
    def delays_links(self) -> bool:
        """It does not."""
        return False

    def payload_rates(self) -> dict[LinkId, float | None]:
        """No link has a shape."""
        return {}

    def _moved(self) -> Iterator[tuple[Port, TrafficClass, int, int]]:
        """Payload and frame bytes of each port: what its side of the path counted itself."""
        for account in self._read():
            host = account.host
            for tally in account.tallies:
                kind, moved = tally.traffic_class, tally.moved
                for port in self._path(host, tally.peer, kind):
                    if port.way == "tx":
                        yield port, kind, moved.sent_payload_bytes, moved.sent_frame_bytes
                for port in self._path(tally.peer, host, kind):
                    if port.way == "rx":
                        yield port, kind, moved.received_payload_bytes, moved.received_frame_bytes

    def _path(self, sender: str, peer: str, kind: TrafficClass) -> tuple[Port, ...]:
        if kind is TrafficClass.CTRL:
            return Port(sender, MGMT, "tx"), Port(peer, MGMT, "rx")
        return self._shape.path(sender, peer)

    def _read(self) -> list[HostAccount]:
        """Every account that is there, each read once."""
        for path in self._folder.glob("*.msgpack"):
            if path not in self._accounts:
                self._accounts[path] = msgspec.msgpack.decode(path.read_bytes(), type=HostAccount)
        return list(self._accounts.values())


def build(wires: WirePlan, folder: Path) -> LoopbackNetwork:
    """Reserve addresses for the cluster's hosts; EnvironmentUnfit if none are free."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return LoopbackNetwork(wires.shape, reserve(list(wires.shape.nics())), folder)


def main() -> int:
    """The forkserver first, so that torch loads while addresses are sought."""
    server = ForkServer()
    hold_group()
    folder = Path(sys.argv[1])
    return play(Lab(folder, server, lambda wires: build(wires, folder / "accounts")))


if __name__ == "__main__":
    sys.exit(main())
