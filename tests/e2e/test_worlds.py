"""Two worlds, one answer: the same engines, in namespaces and in virtual time."""

import json
from pathlib import Path
from typing import Any

import pytest
from cluster import SMALL, arguments, call

from testbed.results import parity

pytestmark = pytest.mark.alone

LOAD = ("workload.agents=360", "workload.turns=2", "workload.openings=4")


def test_the_worlds_agree_on_rates_order_and_bytes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = [
        *arguments("compare", "1p1d.yaml", tmp_path / "runs", *LOAD),
        "--require",
        "functional",
    ]
    emulated = call(words, cache)
    scale = words.index("--time-scale")
    virtual = call([*words[:scale], *words[scale + 2 :], "--world", "virtual"], cache)
    for found in parity.ports(emulated, virtual):
        assert found.holds or "dualpath" in found.what, found  # its paths hang on the load
    if "other programs" in str(emulated["verdict"]["causes"]):
        pytest.skip("other programs used this machine: its times are not those of the model")
    assert parity.same_order(emulated, virtual)
    for found in parity.rates(emulated, virtual):
        assert found.holds, found


def decided(result: dict[str, Any], policy: str) -> dict[int, tuple[Any, ...]]:
    """Engines and reads of each request."""
    lines = (Path(result["folder"]) / policy / "events.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "decided"]
    return {event["request"]: (event["pe"], event["de"], event["reads"]) for event in events}


def test_every_policy_is_right_in_both_worlds_and_lots_and_agents_fall_alike(
    tmp_path: Path,
) -> None:
    policies = "random,static,least-loaded,split"
    words = [
        *arguments("compare", "1p1d.yaml", tmp_path / "runs", *SMALL, "workload.agents=16"),
        "--policies", policies, "--require", "functional",
    ]  # fmt: skip
    emulated = call(words, tmp_path / "cache")
    scale = words.index("--time-scale")
    words = [*words[:scale], *words[scale + 2 :], "--world", "virtual"]
    virtual = call(words, tmp_path / "cache")
    for result in (emulated, virtual):
        assert result["verdict"]["functional"] == "passed"
        assert list(result["policies"]) == policies.split(",")
    # These two look neither at the clock nor at the order of arrivals.
    for policy in ("random", "static"):
        assert decided(emulated, policy) == decided(virtual, policy)
