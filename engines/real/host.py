"""What connections ask of the host whose transport they belong to."""

from typing import TYPE_CHECKING, Protocol

from engines.errors import TransferError
from engines.messages import Message
from engines.real.held import Line
from engines.real.regions import Regions
from engines.seams.transport import TrafficClass
from engines.tally import Tally

if TYPE_CHECKING:
    from engines.real.connection import Connection


class Host(Protocol):
    """What a connection asks of the transport that it belongs to."""

    host: str
    run_id: int
    epoch: int
    counts: dict[str, int]
    regions: Regions

    def greeted(self, peer: str) -> None:
        """A peer opened a connection; TransferError if the directory does not know it."""
        ...

    def line(self, peer: str, traffic_class: TrafficClass) -> Line | None:
        """Where what comes from a peer is held, if its way has a delay that nobody else makes."""
        ...

    def deliver(
        self, peer: str, message: Message, arrived_s: float | None = None, network_ns: int = 0
    ) -> float:
        """Queue a message for `receive`; returns the target time of its arrival (None: now)."""
        ...

    def parted(self, peer: str) -> None:
        """A peer said goodbye."""
        ...

    def tally(self, peer: str, traffic_class: TrafficClass) -> Tally:
        """Where the bytes of this peer and class are counted."""
        ...

    def lost(self, connection: "Connection", error: TransferError | None) -> None:
        """A connection is over; without a goodbye, `error` says so."""
        ...
