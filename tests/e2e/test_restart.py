"""A scheduler that loses all it knows, in namespaces: the same hosts, real connections, real KV."""

from pathlib import Path

from cluster import SMALL, arguments, call


def test_every_turn_ends_once_and_right(tmp_path: Path) -> None:
    # The last two are closer to each other than a fetch period.
    restarts = "engine.scheduler_restart_s=[0.6, 4, 9, 9.02]"
    words = arguments("run", "1p2d.yaml", tmp_path / "runs", *SMALL, restarts)
    words += ["--policy", "dualpath", "--require", "functional"]
    found = call(words, tmp_path / "cache")["policies"]["dualpath"]
    assert found["completed_turns"] == 96 and found["failed_turns"] == 0
    assert found["tokens_checked"] == found["tokens_equal"] > 96
    assert len(found["restarts"]) == 4
    assert sum(one["taken_over"] for one in found["restarts"]) > 0
    for one in found["restarts"]:
        assert one["away_s"] > 0
