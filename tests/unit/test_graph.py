"""Pictures of a cluster: every host and every data link is in each of them, with its load."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from testbed.clusters.graph import Edge, Graph, control_hosts, dot, mermaid, planned
from testbed.clusters.svg import _colour, svg
from testbed.spec import load_experiment
from testbed.worlds.wires import wire_plan
from topologies.shape import ClusterShape

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
SETTINGS = [[], ["cluster.decode_nodes=3"], ["cluster.folded=false", "cluster.storage_hosts=3"]]


def _graph(settings: list[str]) -> Graph:
    wires = wire_plan(load_experiment(TOPOLOGIES / "1p1d.yaml", settings))
    return planned("1p1d", wires, wires.rates().payload_bps)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_host_and_link_is_drawn(settings: list[str]) -> None:
    graph = _graph(settings)
    data = {nic.host for nic in graph.shape.nics() if nic.network != "mgmt"}
    for text in (svg(graph), dot(graph)):
        for host in [*data, "sw-compute", "sw-storage"]:
            assert host in text
    lines = len(graph.shape.data_links())
    assert svg(graph).count("<line ") == lines
    assert dot(graph).count(" -- ") == lines
    assert mermaid(graph).count("---|") == lines


def test_the_svg_is_well_formed_and_everything_lies_within_it() -> None:
    root = ElementTree.fromstring(svg(_graph(SETTINGS[2])))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [one.attrib for one in root if one.tag.endswith("rect")]
    assert len(boxes) > 10
    for box in boxes:
        assert float(box.get("x", 0)) + float(box["width"]) <= width
        assert float(box.get("y", 0)) + float(box["height"]) <= height


def test_a_measured_link_says_how_full_it_is_and_is_drawn_so() -> None:
    shape = ClusterShape(1, 1)
    idle = {key: Edge(*key, 1e9, 0.0, 0.0) for key in shape.data_links()}
    busy = {**idle, ("pe0-buf", "snic"): Edge("pe0-buf", "snic", 1e9, 0.02, 0.97)}
    texts = [svg(Graph("x", shape, edges)) for edges in (idle, busy)]
    assert "↓97%" in texts[1] and "↓97%" not in texts[0]
    plain = texts[0].count(f'stroke="{_colour(0)}"')
    assert texts[1].count(f'stroke="{_colour(0)}"') == plain - 1
    assert texts[1].count(f'stroke="{_colour(0.97)}"') == 1


def test_names_that_would_break_a_picture_are_escaped() -> None:
    shape = ClusterShape(1, 1)
    edges = {key: Edge(*key, None) for key in shape.data_links()}
    ElementTree.fromstring(svg(Graph("<a & b>", shape, edges)))


def test_hosts_of_control() -> None:
    wires = wire_plan(load_experiment(TOPOLOGIES / "1p1d.yaml", []))
    assert control_hosts(wires.shape) == ["agents", "sched"]


def test_many_nodes_stand_in_rows_and_a_row_is_no_wider_than_a_screen_or_two() -> None:
    wires = wire_plan(load_experiment(TOPOLOGIES / "48p96d.yaml", []))
    graph = planned("48p96d", wires, wires.rates().payload_bps)
    root = ElementTree.fromstring(svg(graph))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [one.attrib for one in root if one.tag.endswith("rect")]
    assert width < 2300 and height < 12_000
    nodes = {(box["x"], box["y"]) for box in boxes if box.get("class") == "node"}
    assert len(nodes) == len(graph.shape.nodes) == 144
    for box in boxes:
        assert float(box.get("x", 0)) + float(box["width"]) <= width
        assert float(box.get("y", 0)) + float(box["height"]) <= height
    bars = [float(box["y"]) for box in boxes if float(box["width"]) == width - 40]
    ends = {(one.attrib["y1"], one.attrib["y2"]) for one in root if one.tag.endswith("line")}
    assert len(bars) == 2 * 18 + 1  # both switches a row, and management's once
    # Each line ends at a bar or a box: none is drawn through a row that is not its own.
    assert max(float(below) - float(above) for above, below in ends) < 100


def test_a_few_nodes_stand_side_by_side_between_the_switches() -> None:
    text = svg(_graph(["cluster.decode_nodes=7"]))
    assert text.count(">sw-compute</text>") == text.count(">sw-storage</text>") == 1
    assert "drawn in each row" not in text
