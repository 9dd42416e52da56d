"""What a host does with each kind of message."""

from collections.abc import Callable
from typing import Any, TypeVar

from engines.errors import EngineError
from engines.messages import Message
from engines.seams.transport import Delivery

M = TypeVar("M", bound=Message)


class Handlers(dict[type, Callable[[Delivery, Any], None]]):
    """By the message's type: found at once, however many kinds a host hears."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host

    def on(self, kind: type[M], handle: Callable[[Delivery, M], None]) -> None:
        """Have messages of a kind handled so."""
        self[kind] = handle

    def __missing__(self, kind: type) -> Callable[[Delivery, Any], None]:
        raise EngineError(f"{self._host} cannot use {kind.__name__}")
