"""What has arrived at a host and waits for its engine."""

import asyncio
from collections import deque

from engines.errors import TransferError
from engines.seams.transport import Delivery


class Inbox:
    """Deliveries in order of arrival, and failures among them, each once."""

    def __init__(self, host: str, limit: int) -> None:
        self._host = host
        self._limit = limit
        self._items: deque[Delivery | TransferError] = deque()
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._items)

    def require_room(self) -> None:
        """Raise TransferError if as much waits as may."""
        if len(self._items) >= self._limit:
            raise TransferError(
                f"{len(self._items)} messages wait on {self._host} and nobody takes them; "
                "its engine hangs or is overloaded"
            )

    def put(self, item: Delivery | TransferError) -> None:
        """Something arrived; a failure is taken in whatever waits."""
        self._items.append(item)
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def take(self) -> Delivery:
        """The next that arrived; raises it if it is a failure."""
        while not self._items:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        item = self._items.popleft()
        if isinstance(item, TransferError):
            raise item
        return item
