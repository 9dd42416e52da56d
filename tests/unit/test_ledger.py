"""The closed form against a turn worked by hand, and against what the engines really send."""

from collections import Counter

import pytest
from fake_cluster import Cluster, with_cluster
from fakes import BLOCK, LAYERS, Sent

from engines.layout import KvLayout
from scheduler.types import Decision, ReadExtent, Request, Side
from testbed.results.ledger import (
    STORAGE,
    Port,
    TurnBytes,
    compare,
    expected,
    turn_bytes,
    turn_ports,
)

# One row of 1000 bytes stands for 64 tokens and is a block.
LAYOUT = KvLayout(token_scale=64, block_tokens=64, layers=5, width=50)
GPUS = {"pe0/1": "pe0-gpu", "de2/0": "de2-gpu"}
# Five rows of prompt, four of them hits; decode completes two more blocks.
REQUEST = Request(1, 0, 0, prompt_tokens=330, hit_tokens=256, generate_tokens=130)


def decision(*reads: ReadExtent, pe: str = "pe0/1", de: str = "de2/0") -> Decision:
    return Decision(1, 1, pe, de, reads)


def ports(choice: Decision) -> dict[str, int]:
    found = turn_ports(turn_bytes(REQUEST, choice, LAYOUT), choice, GPUS)
    total: Counter[str] = Counter()
    for port, count in found:
        total[":".join(port)] += count
    return {name: count for name, count in total.items() if count}


def test_bytes_of_a_turn() -> None:
    split = decision(ReadExtent(Side.DE, 0, 1), ReadExtent(Side.PE, 1, 3))
    turn = turn_bytes(REQUEST, split, LAYOUT)
    assert turn == TurnBytes(3000, 1000, 1000, 1000, 2000)
    assert turn.hit == 4000


def test_pe_path_by_hand() -> None:
    assert ports(decision(ReadExtent(Side.PE, 0, 4))) == {
        "storage:snic:tx": 4000,
        "pe0-buf:snic:rx": 4000,
        "pe0-buf:pcie:tx": 4000,
        "pe0-gpu:cnic:rx": 4000,
        "pe0-gpu:cnic:tx": 5000,
        "pe0:uplink:tx": 5000,
        "de2:uplink:rx": 5000,
        "de2-buf:pcie:rx": 7000,
        "de2-buf:pcie:tx": 5000,
        "de2-gpu:cnic:rx": 5000,
        "de2-gpu:cnic:tx": 2000,
        "de2-buf:snic:tx": 3000,
        "storage:snic:rx": 3000,
    }


def test_de_path_by_hand() -> None:
    assert ports(decision(ReadExtent(Side.DE, 0, 4))) == {
        "storage:snic:tx": 4000,
        "de2-buf:snic:rx": 4000,
        "de2:uplink:tx": 4000,
        "pe0:uplink:rx": 4000,
        "pe0-gpu:cnic:rx": 4000,
        "pe0-gpu:cnic:tx": 1000,
        "pe0:uplink:tx": 1000,
        "de2:uplink:rx": 1000,
        "de2-buf:pcie:rx": 3000,
        "de2-buf:pcie:tx": 9000,
        "de2-gpu:cnic:rx": 5000,
        "de2-gpu:cnic:tx": 2000,
        "de2-buf:snic:tx": 3000,
        "storage:snic:rx": 3000,
    }


def test_what_was_in_dram_crosses_every_port_but_those_of_storage() -> None:
    both = decision(ReadExtent(Side.DE, 0, 1), ReadExtent(Side.PE, 1, 3))
    plain, found = (
        Counter(dict(turn_ports(turn_bytes(REQUEST, both, LAYOUT, cached), both, GPUS)))
        for cached in ({}, {Side.PE: 128, Side.DE: 64})
    )
    plain.subtract(found)
    assert {":".join(port): saved for port, saved in plain.items() if saved} == {
        "pe0-buf:snic:rx": 2000,
        "de2-buf:snic:rx": 1000,
        "storage:snic:tx": 3000,
    }


def crossed(sent: Sent) -> list[Port]:
    """The ports that a write crosses from its sender to its peer."""
    (one, what), (other, where) = ([*h.split("-"), ""][:2] for h in (sent.sender, sent.peer))
    nics = {"buf": "pcie", "gpu": "cnic"}
    if "store0" in (one, other):
        ends = [STORAGE if host == "store0" else host for host in (sent.sender, sent.peer)]
        return [(ends[0], "snic", "tx"), (ends[1], "snic", "rx")]
    found = [(sent.sender, nics[what], "tx"), (sent.peer, nics[where], "rx")]
    return found if one == other else [*found, (one, "uplink", "tx"), (other, "uplink", "rx")]


@pytest.mark.parametrize("reads", [
    (ReadExtent(Side.PE, 0, 4),),
    (ReadExtent(Side.DE, 0, 4),),
    (ReadExtent(Side.PE, 0, 1), ReadExtent(Side.DE, 1, 3)),
])  # fmt: skip
@pytest.mark.parametrize(("prompt", "generate"), [(22, 9), (20, 1), (17, 2)])
def test_engines_send_what_the_closed_form_says(
    reads: tuple[ReadExtent, ...], prompt: int, generate: int
) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.assign(cluster.turn(1, prompt, 16, generate), *reads)
        await cluster.end_of(1)

    layout = KvLayout(token_scale=BLOCK, block_tokens=BLOCK, layers=LAYERS, width=1)
    sent: Counter[Port] = Counter()
    for write in with_cluster(test).network.writes():
        assert write.write is not None
        for port in crossed(write):
            sent[port] += layout.span_bytes(write.write.source)
    request = Request(1, 0, 0, prompt, 16, generate)
    gpus = {"pe0/0": "pe0-gpu", "de0/0": "de0-gpu"}
    wanted = expected([(request, decision(*reads, pe="pe0/0", de="de0/0"))], layout, gpus)
    assert +wanted == +sent


def test_turns_add_up() -> None:
    choice = decision(ReadExtent(Side.PE, 0, 4))
    total = expected([(REQUEST, choice)] * 3, LAYOUT, GPUS)
    assert total[STORAGE, "snic", "tx"] == 12_000
    assert total["de2-buf", "pcie", "rx"] == 21_000


def test_both_sides_of_the_ledger_name_every_port() -> None:
    wanted = Counter({("a", "snic", "rx"): 100, ("b", "cnic", "tx"): 50})
    lines = compare(wanted, {("a", "snic", "rx"): 103, ("c", "pcie", "tx"): 7})
    assert [(line.port, line.expected_bytes, line.counted_bytes) for line in lines] == [
        ("a:snic:rx", 100, 103), ("b:cnic:tx", 50, 0), ("c:pcie:tx", 0, 7),
    ]  # fmt: skip
    assert [line.error for line in lines] == [pytest.approx(0.03), -1.0, 0.0]
