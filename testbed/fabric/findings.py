"""What a trial of one primitive came to."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from testbed.errors import EnvironmentUnfit

Status = Literal["ok", "degraded", "missing"]


class Finding(msgspec.Struct, frozen=True):
    """One primitive: what was found; if not ok, what mends it, and what is used until then.

    `fallback` is empty where nothing can stand in: the emulated world then does not run.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    fallback: str = ""


class Check(NamedTuple):
    """A trial: returns what it saw, raises OSError, EnvironmentUnfit or ImportError if refused.

    With a fallback a refusal is "degraded", without one "missing".
    """

    name: str
    trial: Callable[[], str]
    fix: str
    fallback: str = ""


def run_check(check: Check) -> Finding:
    """Try it; whatever it raises becomes the row's detail."""
    try:
        return Finding(check.name, "ok", check.trial())
    except (OSError, EnvironmentUnfit, ImportError, ValueError) as refusal:
        detail = str(refusal).removesuffix("; run `testbed doctor`")
        status: Status = "degraded" if check.fallback else "missing"
        return Finding(check.name, status, detail, check.fix, check.fallback)
