"""What a policy is, and how an experiment's name for one becomes an object.

A policy is one file in `scheduler/policies/` whose `POLICY` is a class with the four decisions
below. To try another idea, subclass one and change the decision that it is about.
"""

import difflib
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, NamedTuple, Protocol

import msgspec

from scheduler import policies
from scheduler.cluster import Cluster
from scheduler.errors import SchedulerError
from scheduler.types import ReadExtent, Request

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Traits(msgspec.Struct, frozen=True):
    """What a policy asks of the engines; None sets no limit.

    `layerwise`: KV moves layer by layer beside the compute. `quota_s`: GPU time of one forward
    (DualPath section 6.5). `max_tokens`: tokens that a GPU computes in one forward. Either cuts
    the request that would exceed it (chunked prefill). `read_ahead`: requests whose KV a node may
    read into DRAM before a GPU wants it.
    """

    layerwise: bool
    quota_s: Seconds | None = None
    max_tokens: Count | None = None
    read_ahead: Count | None = None


class Placement(NamedTuple):
    """A request goes to an engine; the engine's side says for which part."""

    request_id: int
    engine: str


class Policy(Protocol):
    """Decides who prefills, who decodes, and who reads; the scheduler keeps the books.

    Placements are taken one at a time: each is in the books, its read included, before the
    next one is asked for. So a generator always sees the cluster as it left it.
    """

    traits: Traits

    def arrived(self, cluster: Cluster, request: Request) -> Iterable[Placement]:
        """A request came: queue it, or place it at once."""
        ...

    def fetch(self, cluster: Cluster, group: str) -> Iterable[Placement]:
        """A group pulls work; its reports are in the books."""
        ...

    def reads(self, cluster: Cluster, request: Request, pe: str, de: str) -> tuple[ReadExtent, ...]:
        """Which side reads which of the request's hit blocks, each exactly once."""
        ...

    def ended(self, request_id: int) -> None:
        """A request is over; it may still be queued if it failed."""
        ...


def names() -> list[str]:
    """Every policy's name: its module's, with hyphens."""
    modules = pkgutil.iter_modules(policies.__path__)
    return sorted(module.name.replace("_", "-") for module in modules)


def lookup(name: str, **overrides: float | None) -> Policy:
    """Make a policy by name, its traits overridden; SchedulerError names the nearest known word."""
    if name not in names():
        raise SchedulerError(_unknown("policy", name, names()))
    module = import_module(f"scheduler.policies.{name.replace('-', '_')}")
    if not hasattr(module, "POLICY"):
        raise SchedulerError(
            f"{module.__file__} names no policy; end it with POLICY = and the class that decides"
        )
    policy: Policy = module.POLICY()
    traits = msgspec.to_builtins(policy.traits)
    for knob, value in overrides.items():
        if knob not in traits:
            raise SchedulerError(_unknown(f"knob of policy {name}", knob, list(traits)))
        # Experiment files know one kind of number, and 2.0 requests are 2.
        whole = isinstance(value, float) and value.is_integer()
        traits[knob] = int(value) if value is not None and whole else value
    try:
        policy.traits = msgspec.convert(traits, Traits)
    except msgspec.ValidationError as error:
        raise SchedulerError(f"policy {name} cannot use {overrides}: {error}") from error
    return policy


def _unknown(kind: str, word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"there is no {kind} {word!r}; did you mean {near[0]!r}? Known: {', '.join(known)}"
