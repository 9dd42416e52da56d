"""What to say of a policy that failed: on which request, and at which of its lines."""

import sys
import traceback
from pathlib import Path

from scheduler.errors import PolicyFailed, SchedulerError
from scheduler.policy import Policy


def failed(
    policy: Policy, decision: str, request_id: int | None, error: BaseException
) -> PolicyFailed:
    """The error in words: what was asked for, and about which request."""
    what = "the policy failed"
    if request_id is not None:
        what += f" on request {request_id}"
    words = " ".join(str(error).split())
    if not isinstance(error, SchedulerError):
        words = f"{type(error).__name__}: {words}"
    return PolicyFailed(f"{what} at {_where(policy, decision, error)}: {words}")


def _where(policy: Policy, decision: str, error: BaseException) -> str:
    """The newest line of the policy's own code, or the decision if the error is not from there."""
    modules = [sys.modules.get(base.__module__) for base in type(policy).__mro__]
    files = {getattr(module, "__file__", None) for module in modules}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    if not frames:
        return f"{type(policy).__name__}.{decision}"
    # The copies of a user's file that runs keep have their own paths: its name says enough.
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} ({frames[-1].name})"
