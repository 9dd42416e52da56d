"""What a lab asks of the network that its hosts are on, whatever that is made of."""

from collections.abc import Mapping
from typing import Protocol

from testbed.fabric.counters import LinkClasses, LinkCounters


class Place(Protocol):
    """Where a host's process goes; without a namespace it stays in the lab's own."""

    @property
    def netns_fd(self) -> int | None:
        """The host's network namespace, None if it shares the lab's."""
        ...

    @property
    def addresses(self) -> dict[str, str]:
        """By network, as the transport's directory has them."""
        ...


class Network(Protocol):
    """Hosts, and what was counted on each link, by owner and NIC."""

    @property
    def hosts(self) -> Mapping[str, Place]:
        """By name."""
        ...

    def counters(self) -> Mapping[tuple[str, str], LinkCounters]:
        """Bytes of every link, as its owner sees them."""
        ...

    def class_counters(self) -> Mapping[tuple[str, str], LinkClasses]:
        """Bytes by class of every link that has classes."""
        ...

    @property
    def delays_links(self) -> bool:
        """Whether it delays links itself; if not, delays are left to the transports."""
        ...

    def payload_rates(self) -> Mapping[tuple[str, str], float | None]:
        """Payload bit/s of each data link now; None, or no entry, for one without shape."""
        ...
