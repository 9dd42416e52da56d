"""Turns that two policies placed differently, and what the difference is in their times.

Turns of one workload have the same number under every policy. A turn's difference is that of the
two runs: its own placement has a part in it, and all that was placed before it as well. The turns
that were placed alike show how large the latter is.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from scheduler.types import Side
from testbed.errors import InputError
from testbed.jsontext import decode
from testbed.results.events import EVENTS

ALIKE = "alike"


class Placed(msgspec.Struct, frozen=True):
    """Where a turn went: nodes, and the sides that read (`-` if it hits nothing)."""

    pe: str
    de: str
    read: str


class TurnSeen(msgspec.Struct):
    """A turn of one run; times from its submission to its first and last token."""

    agent: int
    turn: int
    submitted_s: float
    placed: Placed | None = None
    ttft_s: float | None = None
    jct_s: float | None = None


class Difference(msgspec.Struct, frozen=True):
    """A turn that was placed differently; `kind` says in what, times are the second's less the
    first's."""

    request: int
    agent: int
    turn: int
    kind: str
    first: Placed
    second: Placed
    ttft_s: tuple[float, float]
    jct_s: tuple[float, float]

    @property
    def cost_s(self) -> float:
        """By how much longer the second policy takes for it."""
        return self.jct_s[1] - self.jct_s[0]


class Total(msgspec.Struct, frozen=True):
    """All turns of one kind of difference: how many, and means of the second's less the first's."""

    kind: str
    turns: int
    ttft_s: float
    jct_s: float


class Differing(msgspec.Struct, frozen=True):
    """What `explain --differing --json` prints.

    `turns` are done under both policies, `left_out` are not. `totals` are of all turns, those
    placed alike included. `costly` are the differently placed turns that take longer under the
    second policy, by how much; where these are too many, `gained` are the other end of the list.
    """

    run: str
    first: str
    second: str
    turns: int
    left_out: int
    totals: tuple[Total, ...]
    costly: tuple[Difference, ...]
    gained: tuple[Difference, ...]


def differing(first: Path, second: Path, most: int) -> Differing:
    """Two policies' folders compared, with at most so many single turns, from both ends."""
    ours, theirs = read_turns(first / EVENTS), read_turns(second / EVENTS)
    found = list(_differences(ours, theirs))
    ranked = sorted(
        (difference for difference in found if difference.kind != ALIKE),
        key=lambda difference: (-difference.cost_s, difference.request),
    )
    cut = len(ranked) > most
    return Differing(
        run=str(first.parent),
        first=first.name,
        second=second.name,
        turns=len(found),
        left_out=len(ours.keys() | theirs.keys()) - len(found),
        totals=totals(found),
        costly=tuple(ranked[: -(-most // 2)] if cut else ranked),
        gained=tuple(ranked[len(ranked) - most // 2 :] if cut else ()),
    )


def read_turns(events: Path) -> dict[int, TurnSeen]:
    """Every turn of a run's event log, by request; raises InputError if there is none."""
    turns: dict[int, TurnSeen] = {}
    try:
        with events.open("rb") as lines:
            for line in lines:
                _take(turns, decode(line, dict[str, Any]))
    except OSError as error:
        raise InputError(f"{events}: {error.strerror}; did the run come to its end?") from error
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{events}: is no event log of a run: {error}; play it again") from error
    return turns


def _take(turns: dict[int, TurnSeen], said: dict[str, Any]) -> None:
    request, at_s = said["request"], said["at_s"]
    if said["event"] == "arrived":
        turns[request] = TurnSeen(said["agent"], said["turn"], at_s)
        return
    turn = turns[request]
    match said["event"]:
        case "decided":
            sides = {side for side, _, _ in said["reads"]}
            read = "+".join(side.upper() for side in Side if side.value in sides) or "-"
            pe, de = (said[key].split("/")[0] for key in ("pe", "de"))
            turn.placed = Placed(pe, de, read)
        case "first_token":
            turn.ttft_s = at_s - turn.submitted_s
        case "done":
            turn.jct_s = at_s - turn.submitted_s


def _differences(first: dict[int, TurnSeen], second: dict[int, TurnSeen]) -> Iterator[Difference]:
    """Every turn that is done in both runs."""
    for request in sorted(first.keys() & second.keys()):
        one, other = first[request], second[request]
        if one.placed is None or other.placed is None:
            continue
        if one.ttft_s is None or other.ttft_s is None:
            continue
        if one.jct_s is None or other.jct_s is None:
            continue
        yield Difference(
            request,
            one.agent,
            one.turn,
            kind_of(one.placed, other.placed),
            one.placed,
            other.placed,
            (one.ttft_s, other.ttft_s),
            (one.jct_s, other.jct_s),
        )


def kind_of(first: Placed, second: Placed) -> str:
    """In what two placements differ: `PE`, `DE`, `read`, several of them, or nothing."""
    parts = (("PE", first.pe, second.pe), ("DE", first.de, second.de),
             ("read", first.read, second.read))  # fmt: skip
    return ", ".join(name for name, one, other in parts if one != other) or ALIKE


def totals(found: Sequence[Difference]) -> tuple[Total, ...]:
    """Kinds with their means, the most frequent first, and those placed alike at the end."""
    kinds: dict[str, list[Difference]] = {}
    for difference in found:
        kinds.setdefault(difference.kind, []).append(difference)
    ranked = sorted(kinds.items(), key=lambda kind: (kind[0] == ALIKE, -len(kind[1]), kind[0]))
    return tuple(
        Total(
            kind,
            len(members),
            fmean(member.ttft_s[1] - member.ttft_s[0] for member in members),
            fmean(member.cost_s for member in members),
        )
        for kind, members in ranked
    )
