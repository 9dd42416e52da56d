"""The transport's seam: RDMA-shaped writes between regions, and messages.

A region is registered memory that holds KV in the Full Block layout. A write moves the
tokens and layers of one span into a span of a peer's region and rings one doorbell there: the
note, delivered once the data lies in place. All bytes of a span stay behind this seam.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from engines.kv import Span
from engines.messages import Message

DIGEST_BYTES = 8  # of one block's digest


class TrafficClass(StrEnum):
    """Classes on the wire and their DSCP marks (RFC 2474; design.md section 2)."""

    MODEL = "model"  # EF, 46: collectives
    KV = "kv"  # CS1, 8: cache
    CTRL = "ctrl"  # CS6, 48: control


DSCP = {TrafficClass.MODEL: 46, TrafficClass.KV: 8, TrafficClass.CTRL: 48}


class Write(msgspec.Struct, frozen=True, gc=False):
    """Source and target spans hold the same number of tokens and layers, token by token."""

    source: Span
    target: Span
    note: Message
    request: int
    traffic_class: TrafficClass = TrafficClass.KV


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message or a doorbell's note, as it arrived; the network had it for `network_s`.

    That is known of class MODEL alone: from the post to the arrival at the host, not its process.
    """

    sender: str
    message: Message
    arrived_s: float
    network_s: float = 0.0


class Transport(Protocol):
    """One host's end of every connection; peers are host names."""

    host: str

    async def write(self, peer: str, writes: Sequence[Write], *, deadline_s: float) -> float:
        """Move spans of one class; returns the target time at which the peer had them in place.

        They go out together and in order, each with its doorbell, as a list of work requests
        does. Returns only after the peer's acknowledgements, so the sources may be reused then.
        Raises DeadlineExceeded after `deadline_s` target seconds, TransferError if the
        connection is lost.
        """
        ...

    def post(
        self, peer: str, message: Message, traffic_class: TrafficClass = TrafficClass.CTRL
    ) -> None:
        """Send a message, without waiting; messages to one peer in one class stay in order.

        If it cannot be sent, `serve` raises the TransferError.
        """
        ...

    async def serve(self, handle: Callable[[Delivery], None]) -> None:
        """Hand over every message and doorbell in order of arrival, until cancelled.

        Raises what `handle` raises, and TransferError if a connection is lost.
        """
        ...

    def copy(self, source: Span, target: Span) -> None:
        """Copy a span within this host, at once, over no link; both cover the same rows."""
        ...

    def seal(self, span: Span, content: bytes, first_block: int) -> bytes:
        """Digests, 8 bytes a block, of whole blocks: each binds the block's key and its bytes.

        `content` is the prompt's opaque content from position 0 on; `first_block` is the
        number, in the prompt, of the span's first block.
        """
        ...

    def check(self, span: Span, content: bytes, first_block: int, digests: bytes) -> None:
        """Raise KvDigestMismatch, naming the block, unless `seal` would give `digests`."""
        ...
