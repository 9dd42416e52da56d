"""What an experiment file may say about its workload."""

from typing import Annotated

import msgspec
from msgspec import Meta

Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]


class FixedWorkload(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="fixed",
):
    """Agents whose turns have given averages, by default the paper's 64K set (Table 2).

    `mid_decode` is the share of agents whose first turn generates only a random remainder;
    `spread` s draws each agent's context from (1 - s, 1 + s) times the average.
    """

    agents: Annotated[int, Meta(ge=1, le=100_000)]
    turns: Annotated[int, Meta(ge=1, le=1000)] = 2
    openings: Annotated[int, Meta(ge=1, le=10_000)] = 24
    cached_tokens: Tokens = 32_721
    append_tokens: Tokens = 429
    generate_tokens: Tokens = 176
    mid_decode: Annotated[float, Meta(ge=0, le=1)] = 0.5
    spread: Annotated[float, Meta(ge=0, lt=1)] = 0.0


class WekaWorkload(
    msgspec.Struct,
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

    agents: Annotated[int, Meta(ge=1, le=100_000)]
    sessions: Annotated[int, Meta(ge=1, le=10_000)] = 24
    turns: Annotated[int, Meta(ge=1, le=1000)] = 2
    longest_generation: Tokens = 1024
    trace: str | None = None


WorkloadSpec = FixedWorkload | WekaWorkload
