"""Turns of two policies matched by number: what differs, and what it cost."""

from pathlib import Path

import pytest

from testbed.errors import InputError
from testbed.results.differing import ALIKE, Placed, differing, kind_of, read_turns

Turn = tuple[str, str, str, float, float]  # PE, DE, reads, TTFT and JCT


def log(folder: Path, turns: dict[int, Turn], ends: bool = True) -> Path:
    """An event log of turns that all arrive at 1 s."""
    lines = []
    for request, (pe, de, reads, ttft_s, jct_s) in turns.items():
        head = f'"request":{request}'
        extents = ",".join(f'["{side}",0,1]' for side in reads.split("+") if side)
        more = f'"seq":1,"pe":"{pe}/0","de":"{de}/1","reads":[{extents}]'
        lines += [
            f'{{"at_s":1.0,"event":"arrived",{head},"agent":{request},"turn":0}}',
            f'{{"at_s":1.5,"event":"decided",{head},{more}}}',
            f'{{"at_s":{1 + ttft_s},"event":"first_token",{head}}}',
        ]
        lines += [f'{{"at_s":{1 + jct_s},"event":"done",{head}}}'] if ends else []
    folder.mkdir()
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.mark.parametrize(("first", "second", "kind"), [
    (Placed("pe0", "de0", "PE"), Placed("pe0", "de0", "PE"), ALIKE),
    (Placed("pe0", "de0", "PE"), Placed("pe0", "de0", "DE"), "read"),
    (Placed("pe0", "de0", "PE"), Placed("pe1", "de1", "PE"), "PE, DE"),
    (Placed("pe0", "de0", "PE"), Placed("pe1", "de1", "PE+DE"), "PE, DE, read"),
])  # fmt: skip
def test_kinds(first: Placed, second: Placed, kind: str) -> None:
    assert kind_of(first, second) == kind


def test_sides_that_read(tmp_path: Path) -> None:
    folder = log(tmp_path / "a", {
        1: ("pe0", "de0", "de+pe", 1, 2), 2: ("pe0", "de0", "", 1, 2),
        3: ("pe0", "de0", "de", 1, 2),
    })  # fmt: skip
    turns = read_turns(folder / "events.jsonl")
    assert [turn.placed.read for turn in turns.values() if turn.placed] == ["PE+DE", "-", "DE"]


def test_differences_are_ranked_and_totalled_by_kind(tmp_path: Path) -> None:
    first = log(tmp_path / "basic", {
        1: ("pe0", "de0", "pe", 1, 5), 2: ("pe0", "de0", "pe", 1, 5),
        3: ("pe0", "de0", "pe", 1, 5), 4: ("pe0", "de0", "pe", 1, 5),
    })  # fmt: skip
    second = log(tmp_path / "dualpath", {
        1: ("pe0", "de0", "de", 0.5, 4), 2: ("pe0", "de0", "de", 1, 8),
        3: ("pe0", "de1", "pe", 2, 5.5), 4: ("pe0", "de0", "pe", 1.25, 5),
        5: ("pe0", "de0", "pe", 1, 1),
    })  # fmt: skip
    found = differing(first, second, 2)
    assert (found.first, found.second) == ("basic", "dualpath")
    assert (found.turns, found.left_out) == (4, 1)
    ends = [[(d.request, d.kind, d.cost_s) for d in end] for end in (found.costly, found.gained)]
    assert ends == [[(2, "read", 3.0)], [(1, "read", -1.0)]]
    whole = differing(first, second, 3)
    assert [d.request for d in whole.costly] == [2, 3, 1] and not whole.gained
    none = differing(first, second, 0)
    assert not none.costly and not none.gained and none.totals == whole.totals
    assert [(t.kind, t.turns, t.ttft_s, t.jct_s) for t in found.totals] == [
        ("read", 2, -0.25, 1.0), ("DE", 1, 1.0, 0.5), (ALIKE, 1, 0.25, 0.0),
    ]  # fmt: skip


def test_turns_that_are_not_done_are_left_out(tmp_path: Path) -> None:
    turn = {1: ("pe0", "de0", "pe", 1.0, 5.0)}
    found = differing(log(tmp_path / "a", turn), log(tmp_path / "b", turn, ends=False), 5)
    assert (found.turns, found.left_out, found.totals, found.costly) == (0, 1, (), ())


def test_a_log_that_is_not_there_or_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did the run come to its end"):
        read_turns(tmp_path / "events.jsonl")
    head = b'{"at_s":1,"event":"arrived","request":1,"agent":0,"turn":0}\n{"at_s":2,"request":1,'
    for damaged in (
        b'{"at_s": 1}', b"3", b'{"at_s":"\xff"}', b"[" * 100_000,
        head + b'"event":"decided","pe":1,"de":"d","reads":[]}',
        head + b'"event":"decided","pe":"p","de":"d","reads":[3]}',
    ):  # fmt: skip
        (tmp_path / "events.jsonl").write_bytes(damaged)
        with pytest.raises(InputError, match="is no event log of a run"):
            read_turns(tmp_path / "events.jsonl")
