"""What the verbs on live clusters print of a view: payload everywhere, and classes by name."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from testbed.cli import down, graph, link, logs, qos, status
from testbed.clusters.protocol import About, LinkView, MarkView, View
from testbed.errors import InputError
from testbed.fabric.counters import LinkClasses, LinkCounters
from testbed.fabric.linkstate import LinkState
from testbed.fabric.wire import HEADER_BYTES, KV_CLASS, MODEL_CLASS, ClassCounters
from testbed.spec import load_experiment
from testbed.worlds.wires import wire_plan

TOPOLOGY = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"
MB, SEGMENTS = 1_000_000, 691  # 1 MB in full segments


def _counted(payload_bytes: int, waits: int = 0) -> ClassCounters:
    packets = SEGMENTS if payload_bytes else 0
    return ClassCounters(payload_bytes + packets * HEADER_BYTES, packets, 0, waits)


def _link(owner: str, model_bytes: int, waits: int = 0) -> LinkView:
    """A link whose owner sent so much, all of it as MODEL; one GSO packet on the veth."""
    ends = {MODEL_CLASS: _counted(model_bytes, waits), KV_CLASS: _counted(0)}
    return LinkView(
        LinkState(owner, "snic", 1e8, 0.0, 1e8, 0.0, "none"),
        LinkCounters(0, 0, model_bytes + HEADER_BYTES, 1),
        LinkClasses(ends, {name: _counted(0) for name in ends}),
    )


@pytest.fixture
def view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> View:
    """A cluster `seen` of three links, of which one carried 1 MB and one has something waiting."""
    wires = wire_plan(load_experiment(TOPOLOGY, []))
    about = About("seen", "up", str(tmp_path), "rootless", 0.0, wires)
    links = [_link("pe0-buf", MB), _link("de0-buf", 0, waits=3000), _link("store0", 0)]
    marks = [MarkView(None, "tcp", 5201, 46, "nftables")]
    found = View(about, 0.0, "up", True, [], links, marks, {}, [])
    cluster: Any = SimpleNamespace(
        look=lambda *_: found, mark=lambda *_: None, down=lambda: None, name="seen"
    )
    for module in (status, qos, link, logs, down, graph):
        monkeypatch.setattr(module, "Cluster", lambda name: cluster)
    monkeypatch.setattr("testbed.clusters.names._by_user", lambda: {os.getuid(): {"seen"}})
    return found


def _said(command: Any, *words: str) -> str:
    ended = CliRunner().invoke(command, words, env={"COLUMNS": "120"}, standalone_mode=False)
    assert ended.exception is None, ended.exception
    return str(ended.output)


def _row(text: str, begin: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(begin))
    return line.split()


def test_of_a_links_payload_no_class_has_more_than_all_of_it(view: View) -> None:
    text = _said(status.command)
    assert "of it MODEL" in text and "marks all hosts tcp/5201 MODEL (DSCP 46)" in text
    assert _row(text, "pe0-buf:snic")[-3:] == ["1.00/0.00", "1.00/0.00", "0"]


def test_qos_shows_links_that_carried_something_or_have_something_waiting(view: View) -> None:
    text = _said(qos.command, "show")
    assert "tcp/5201 at every host: MODEL (DSCP 46), by nftables" in text
    assert [line.split()[0] for line in text.splitlines() if "MODEL, CTRL" in line] == [
        "pe0-buf:snic", "de0-buf:snic",
    ]  # fmt: skip
    assert "1.00" in text and "1.05" not in text  # payload, not the wire's bytes
    assert "1 other links carried nothing yet; --all has them" in text
    every = _said(qos.command, "show", "--all")
    assert "store0:snic" in every and "--all" not in every


def test_a_mark_is_told_by_class_and_number(view: View) -> None:
    said = _said(qos.command, "mark", "5201", "model")
    assert said == "tcp/5201 at every host: MODEL (DSCP 46)\n"


def test_a_link_without_delay_has_nobody_that_delays_it(view: View) -> None:
    assert "none" not in _said(link.command, "show")


def test_logs_that_have_nothing_say_so_and_where_they_will_be(view: View, tmp_path: Path) -> None:
    assert f"nothing was written yet; logs of seen are in {tmp_path}" in _said(logs.command)
    (tmp_path / "lab.log").write_text("up\n")
    assert _said(logs.command, "-c", "seen") == "lab: up\n"


@pytest.mark.parametrize("module", [status, logs, down, graph])
def test_a_cluster_is_named_by_its_place_or_by_its_option(view: View, module: Any) -> None:
    more = ["--seconds", "0.05", "--format", "dot"] if module is graph else []
    assert _said(module.command, "-c", "seen", *more) == _said(module.command, "seen", *more)
    two = CliRunner().invoke(module.command, ["seen", "-c", "other"], standalone_mode=False)
    assert isinstance(two.exception, InputError)
