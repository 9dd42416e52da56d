"""Two worlds, one answer: the same engines, in namespaces and in virtual time."""

from pathlib import Path

import pytest
from cluster import arguments, call

from testbed.results import parity

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
