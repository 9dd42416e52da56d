"""The way to one peer in one class, and writes as they go out on it."""

import asyncio
from collections import deque

import anyio

from engines.real import frames
from engines.real.connection import Connection
from engines.real.frames import Doorbell, Order
from engines.seams.transport import Write


class Link:
    """The way to one peer in one class; the lock keeps the order of who had to wait.

    `posted` are messages that nobody waits for, and `posting` the task that sends them.
    """

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.connection: Connection | None = None
        self.posted: deque[tuple[bytes, int]] = deque()
        self.posting: asyncio.Task[None] | None = None

    @property
    def ready(self) -> Connection | None:
        """The connection, if a frame may leave on it right now."""
        connection = self.connection
        if connection is None or connection.stalled or not connection.usable:
            return None
        return None if self.posted or self.lock.locked() else connection


class Prepared:
    """A write as it goes out."""

    def __init__(self, write: Write, payload: memoryview | bytes, order: Order) -> None:
        self.write = write
        self.note = frames.encode(Doorbell(write.note, write.target))
        self.layer = frames.layer_of(write.target)
        self.payload = payload
        self.order = order
