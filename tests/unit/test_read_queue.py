"""What a node reports of its read queue: what its storage NIC has before it, not its memory."""

import anyio
import pytest
from fake_cluster import Cluster, Setup, with_cluster

from scheduler.types import NodeReport, ReadExtent, Side

PROMPT, HIT, GENERATE = 22, 16, 9


def reports(side: Side, reads_in_flight: int) -> list[NodeReport]:
    """Three reads and room for one prompt; a read takes 1.6 s, and reports come every 0.5 s."""

    async def test(cluster: Cluster) -> None:
        for number in (1, 2, 3):
            turn = cluster.turn(number, PROMPT, HIT, GENERATE)
            await cluster.assign(turn, ReadExtent(side, 0, 4))
        await cluster.end_of(1, 2, 3)
        await anyio.sleep(1)

    setup = Setup(token_layer_s=0.05, dram_tokens=24, reads_in_flight=reads_in_flight)
    found = [report.nodes[0] for report in with_cluster(test, setup).reports(f"{side}0")]
    assert found[0].seen == 3 and found[-1].read_queue_tokens == 0
    assert [node.at_s for node in found] == sorted({node.at_s for node in found})
    return found


@pytest.mark.parametrize(("side", "reads_in_flight", "most"), [
    (Side.PE, 10, 3 * HIT),
    (Side.PE, 1, 3 * HIT),
    (Side.DE, 10, 3 * HIT - 24),  # of the two others' 32 tokens a DRAM's worth is left out
    (Side.DE, 1, 3 * HIT),
])  # fmt: skip
def test_turns_without_room_in_an_idle_de_node_are_not_queued_for_its_nic(
    side: Side, reads_in_flight: int, most: int
) -> None:
    assert max(node.read_queue_tokens for node in reports(side, reads_in_flight)) == most
