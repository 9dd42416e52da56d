"""A program that cannot mark its packets gets its class by a rule on its port."""

import pytest
from links_play import play

OTHERS = [
    {"proto": "udp", "port": 5001, "dscp": 46},
    {"proto": "tcp", "port": 5002, "dscp": 46},
]


@pytest.mark.parametrize(
    ("scene", "host", "by", "answers_too"),
    [
        ("marked_by_port", None, "nftables", True),
        ("marked_by_u32", None, "u32", True),
        ("one_host_marked", "pe0-gpu", "nftables", False),
        ("one_host_marked_by_u32", "pe0-gpu", "u32", False),
    ],
)
def test_an_open_connection_follows_the_mark_of_its_port(
    scene: str, host: str | None, by: str, answers_too: bool
) -> None:
    report = play(scene)
    unmarked, marked, later, taken_back, last = report["story"]
    # Marks of another protocol and of another port are not for it.
    assert unmarked["1:10"] == [0, 0]
    sent, received = 0, 1  # packets that passed the class at the owner's and the switch's end
    assert later["1:10"][sent] > marked["1:10"][sent] > 0
    assert (later["1:10"][received] > 0) == answers_too
    assert later["1:20"][received] > unmarked["1:20"][received] or answers_too
    assert last["1:10"] == taken_back["1:10"]
    assert last["1:20"][sent] > taken_back["1:20"][sent]
    own = {"host": host, "by": by}
    assert report["mark"] == {**own, "proto": "tcp", "port": 5001, "dscp": 46}
    assert report["marks"] == [*({**own, **other} for other in OTHERS), report["mark"]]
    assert report["left"] == [{**own, **other} for other in OTHERS]
