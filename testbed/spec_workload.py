"""What an experiment file may say about its workload."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
PerSecond = Annotated[float, Meta(ge=1e-3, le=1e6)]
Seconds = Annotated[float, Meta(gt=0, le=1e7)]


class AnyWorkload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every kind knows: how many agents, when they arrive, and when the run ends.

    Agents arrive as a Poisson process of `aps` a target second (None: all at once), and begin no
    turn after `window_s` target seconds (None: they play all their turns).
    """

    agents: Annotated[int, Meta(ge=1, le=100_000)]
    aps: PerSecond | None = None
    window_s: Seconds | None = None


class FixedWorkload(
    AnyWorkload,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="fixed",
):
    """Agents whose turns have given averages, by default the paper's 64K set (Table 2).

    `mid_decode` is the share of agents whose first turn generates only a random remainder;
    `spread` s draws each agent's context from (1 - s, 1 + s) times the average; `appends` says
    whether turns append alike, or exponentially distributed lengths.
    """

    turns: Annotated[int, Meta(ge=1, le=1000)] = 2
    openings: Annotated[int, Meta(ge=1, le=10_000)] = 24
    cached_tokens: Tokens = 32_721
    append_tokens: Tokens = 429
    generate_tokens: Tokens = 176
    mid_decode: Annotated[float, Meta(ge=0, le=1)] = 0.5
    spread: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    appends: Literal["equal", "exponential"] = "equal"


class WekaWorkload(
    AnyWorkload,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="weka",
):
    """Real coding sessions, each agent replaying `turns` turns from the middle of one.

    Turns that generate more than `longest_generation` tokens are not replayed: at a fixed time a
    token, one of 10,000 would hold up a run for minutes. `trace` is a file of sessions relative to
    the experiment file; the packaged set by default.
    """

    sessions: Annotated[int, Meta(ge=1, le=10_000)] = 24
    turns: Annotated[int, Meta(ge=1, le=1000)] = 2
    longest_generation: Tokens = 1024
    trace: str | None = None


class ReplayWorkload(
    AnyWorkload,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="replay",
):
    """Agents that each replay a trajectory: a run of `turns` rounds of it (None: all of them).

    `set` names synthetic trajectories with the averages of one of the paper's sets (Table 2), or
    the packaged recorded ones; `trace` is a file of recorded ones relative to the experiment file;
    with neither, it is 64k. There are `trajectories` different ones (None: 500 synthetic ones, or
    all that are recorded). The run starts at a round that is `drawn` or at the `first` (None:
    drawn, if `turns` says how long it is). Agents beyond the number of trajectories play one
    again, after `prefix_tokens` random tokens of their own.
    """

    set: Literal["64k", "48k", "32k", "weka-coding"] | None = None
    trace: str | None = None
    trajectories: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    turns: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    start: Literal["drawn", "first"] | None = None
    prefix_tokens: Annotated[int, Meta(ge=64, le=1_000_000)] = 64


WorkloadSpec = FixedWorkload | WekaWorkload | ReplayWorkload
