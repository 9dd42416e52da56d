"""What engines and nodes report beside the paper's three numbers: room in DRAM, NICs' backlogs."""

from collections.abc import Callable

import anyio
from fake_cluster import Cluster, Setup, with_cluster

from engines.kv import Span
from engines.messages import Append, LayerDone, LayerLoaded, Message, Report, Start
from engines.seams.transport import Write
from engines.waits import Backlog
from scheduler.types import EngineReport, NodeReport, ReadExtent, Side

PROMPT, HIT, GENERATE = 22, 16, 9  # m = 6; slots are whole blocks of 4 tokens


def test_a_backlog_counts_tokens_of_all_layers() -> None:
    backlog = Backlog(layers=4)
    backlog.add(Span("hbm", 0, 0, 10, 0, 1))
    assert backlog.tokens == 3  # 10 of 4 layers' 12 token-layers
    backlog.add(Span("hbm", 64, 10, 20, 0, 4))
    assert backlog.tokens == 13
    backlog.add(Span("hbm", 64, 10, 20, 0, 4), -1)
    backlog.add(Span("hbm", 0, 0, 10, 0, 1), -1)
    assert backlog.tokens == 0


def while_under_way(
    kind: type[Message], side: Side, report: Callable[[Cluster], Report]
) -> tuple[list[Report], Report]:
    """Reports at each write of a kind, before it arrives; and one when all is over."""
    found: list[Report] = []

    async def test(cluster: Cluster) -> None:
        async def look(sender: str, peer: str, write: Write) -> None:
            if isinstance(write.note, kind):
                found.append(report(cluster))

        cluster.network.before_write = look
        turn = cluster.turn(1, PROMPT, HIT, GENERATE)
        await cluster.assign(turn, ReadExtent(side, 0, HIT // 4))
        await cluster.end_of(1)
        await anyio.sleep(1)
        assert cluster.right(turn)
        found.append(report(cluster))

    with_cluster(test, Setup(token_layer_s=0.05))
    return found[:-1], found[-1]


def engine(report: Report) -> EngineReport:
    return report.engines[0]


def node(report: Report) -> NodeReport:
    return report.nodes[0]


def test_a_pe_owes_what_the_de_buffer_has_not_acknowledged() -> None:
    found, end = while_under_way(LayerDone, Side.PE, lambda c: c.prefill._report())
    # One layer of two is as much as half of the tokens.
    assert engine(found[0]).cnic_backlog_tokens == PROMPT // 2
    assert engine(end).cnic_backlog_tokens == 0


def test_a_pe_does_not_owe_what_was_read_on_the_de_side() -> None:
    found, _ = while_under_way(LayerDone, Side.DE, lambda c: c.prefill._report())
    assert engine(found[0]).cnic_backlog_tokens == (PROMPT - HIT) // 2


def test_a_de_owes_the_blocks_that_it_generated() -> None:
    found, end = while_under_way(Append, Side.PE, lambda c: c.decode._report())
    assert engine(found[0]).cnic_backlog_tokens == 4
    assert engine(end).cnic_backlog_tokens == 0


def test_a_node_owes_layers_to_its_engines_and_new_blocks_to_storage() -> None:
    layers, _ = while_under_way(LayerLoaded, Side.PE, lambda c: c.buffers["pe0"]._report())
    assert node(layers[0]).cnic_backlog_tokens == HIT // 2
    whole, end = while_under_way(Start, Side.PE, lambda c: c.buffers["de0"]._report())
    assert node(whole[0]).cnic_backlog_tokens == PROMPT
    assert node(whole[0]).write_backlog_tokens == 4  # one new whole block of prompt
    assert (node(end).cnic_backlog_tokens, node(end).write_backlog_tokens) == (0, 0)


def test_a_node_says_how_much_of_its_dram_no_turn_holds() -> None:
    for name, held in (("pe0", HIT), ("de0", 24)):  # hits, and the prompt in whole blocks
        found, end = while_under_way(
            LayerLoaded, Side.PE, lambda c, name=name: c.buffers[name]._report()
        )
        assert node(found[0]).free_dram_tokens == 400 - held
        assert node(end).free_dram_tokens == 400
