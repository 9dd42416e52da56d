"""The engines' branch of the one tree of errors (its root: scheduler/errors.py)."""

from scheduler.errors import DualPathError


class EngineError(DualPathError):
    """Base of what can go wrong inside a host."""


class DeadlineExceeded(EngineError):
    """A wait passed its deadline; the message names who waited for what."""


class TransferError(EngineError):
    """A write or message did not reach its peer, or arrived malformed."""


class StoreError(EngineError):
    """The block store cannot serve an extent or append one."""


class KvMissing(StoreError):
    """An extent was asked for that storage does not hold."""


class KvDigestMismatch(StoreError):
    """A block's bytes do not belong to its key."""


class CapacityError(EngineError):
    """A request can never fit into a memory of the profile."""


class ComputeError(EngineError):
    """The decoder failed its self-check or was handed work that it cannot do."""


class VirtualDeadlock(EngineError):
    """In virtual time nothing is left that could ever happen, and work is; `hosts` wait for it."""

    def __init__(self, message: str, hosts: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.hosts = hosts
