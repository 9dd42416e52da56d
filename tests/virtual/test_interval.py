"""What saturates first as P/D grows is what the closed form says, on both sides and between."""

import json
from pathlib import Path

import pytest

from testbed.bench.interval import interval_settings
from testbed.cli.main import main
from testbed.cluster import port_interval
from testbed.results.utilisation import by_kind
from testbed.spec import load_experiment

FILE = Path(__file__).parents[2] / "topologies/interval.yaml"


@pytest.mark.parametrize(("prefill", "decode", "first"), [
    (1, 8, "PE cnic rx"),
    (1, 4, "SNICs"),
    (4, 1, "DE dram"),
])  # fmt: skip
def test_what_saturates_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prefill: int, decode: int, first: str
) -> None:
    settings = interval_settings(prefill, decode)
    experiment = load_experiment(FILE, [word for word in settings if word != "--set"])
    assert port_interval(experiment).first(prefill / decode) == first
    words = ["run", str(FILE), "--world", "virtual", "--json", "--runs", str(tmp_path)]
    assert main([*words, *settings]) == 0
    policy = json.loads(capsys.readouterr().out)["policies"]["dualpath"]
    used = by_kind(policy["utilisation"])
    order = sorted(used, key=used.__getitem__, reverse=True)
    assert order[0] == first
    assert used[first] == pytest.approx(1.0, abs=0.02)
    assert used[order[1]] < 0.98
