"""The byte ledger: what each port should have carried, from decisions alone, in closed form.

One line per step of DualPath's Figure 4, each a sum of ports (paper section 3). What the kernel
counted is compared with it; frames, notes and acknowledgements are the difference.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from engines.layout import KvLayout
from scheduler.types import Decision, Request, Side

STORAGE = "storage"  # all storage hosts together
NOTHING: Mapping[Any, Any] = {}
Port = tuple[str, str, str]  # host or node, NIC, "rx" or "tx" as its owner sees it


class TurnBytes(msgspec.Struct, frozen=True):
    """Emulated KV bytes of one turn.

    `hit_pe` and `hit_de` are H by the side that read it, `miss` is m, `prompt_blocks` and
    `generated_blocks` what is persisted of each. `cached_pe` and `cached_de` are the parts of H
    that were in that side's DRAM and came from no storage.
    """

    hit_pe: int
    hit_de: int
    miss: int
    prompt_blocks: int
    generated_blocks: int
    cached_pe: int = 0
    cached_de: int = 0

    @property
    def hit(self) -> int:
        """H."""
        return self.hit_pe + self.hit_de


def turn_bytes(
    request: Request, decision: Decision, layout: KvLayout, cached: Mapping[Side, int] = NOTHING
) -> TurnBytes:
    """What the turn's KV weighs: from its lengths, its read extents, and tokens found in DRAM."""
    block = layout.block_bytes
    hit_pe = hit_de = 0
    for read in decision.reads:
        if read.side is Side.PE:
            hit_pe += read.count * block
        else:
            hit_de += read.count * block
    prompt_blocks = request.prompt_tokens // layout.block_tokens
    hit_blocks = request.hit_tokens // layout.block_tokens
    end_blocks = request.context_tokens // layout.block_tokens
    return TurnBytes(
        hit_pe,
        hit_de,
        (layout.rows(request.prompt_tokens) - layout.rows(request.hit_tokens)) * layout.row_bytes,
        (prompt_blocks - hit_blocks) * block,
        (end_blocks - prompt_blocks) * block,
        cached.get(Side.PE, 0) // layout.block_tokens * block,
        cached.get(Side.DE, 0) // layout.block_tokens * block,
    )


def turn_ports(
    turn: TurnBytes, decision: Decision, gpus: Mapping[str, str]
) -> Iterable[tuple[Port, int]]:
    """Every port that the turn crosses, with its bytes; `gpus` maps engines to their hosts."""
    pe, de = decision.pe.split("/")[0], decision.de.split("/")[0]
    pe_buf, de_buf = f"{pe}-buf", f"{de}-buf"
    pe_gpu, de_gpu = gpus[decision.pe], gpus[decision.de]
    kept = turn.prompt_blocks + turn.generated_blocks
    # Steps 1-2: storage to the DRAM of the side that reads.
    yield (STORAGE, "snic", "tx"), turn.hit - turn.cached_pe - turn.cached_de
    yield (pe_buf, "snic", "rx"), turn.hit_pe - turn.cached_pe
    yield (de_buf, "snic", "rx"), turn.hit_de - turn.cached_de
    # Steps 3-4 (PE path: local) and 3-5 (DE path: straight into prefill HBM), layer by layer.
    yield (pe_buf, "pcie", "tx"), turn.hit_pe
    yield (de, "uplink", "tx"), turn.hit_de
    yield (pe, "uplink", "rx"), turn.hit_de
    yield (pe_gpu, "cnic", "rx"), turn.hit
    # Steps 5-7: prefill HBM to the DE buffer; on the DE path only the miss KV.
    sent = turn.hit_pe + turn.miss
    yield (pe_gpu, "cnic", "tx"), sent
    yield (pe, "uplink", "tx"), sent
    yield (de, "uplink", "rx"), sent
    # Steps 8-9 (6-7 on the DE path): the whole prompt from the DE buffer into decode HBM. The
    # buffer's port also carries what a DE read sends to the PE, and generated blocks coming back.
    yield (de_buf, "pcie", "rx"), sent + turn.generated_blocks
    yield (de_buf, "pcie", "tx"), turn.hit_de + turn.hit + turn.miss
    yield (de_gpu, "cnic", "rx"), turn.hit + turn.miss
    yield (de_gpu, "cnic", "tx"), turn.generated_blocks
    # Persistence: new blocks of prompt and generation, each once.
    yield (de_buf, "snic", "tx"), kept
    yield (STORAGE, "snic", "rx"), kept


class PortLine(msgspec.Struct, frozen=True):
    """One direction of one port: what the closed form says and what the kernel counted."""

    port: str
    expected_bytes: int
    counted_bytes: int

    @property
    def error(self) -> float:
        """Counted over expected, less one; 0 where nothing is expected."""
        return self.counted_bytes / self.expected_bytes - 1 if self.expected_bytes else 0.0


def expected(
    turns: Iterable[tuple[Request, Decision]],
    layout: KvLayout,
    gpus: Mapping[str, str],
    cached: Mapping[int, Mapping[Side, int]] = NOTHING,
) -> Counter[Port]:
    """Bytes of every port over a run's turns; `cached` are tokens found in DRAM, by request."""
    total: Counter[Port] = Counter()
    for request, decision in turns:
        turn = turn_bytes(request, decision, layout, cached.get(request.id, NOTHING))
        for port, count in turn_ports(turn, decision, gpus):
            total[port] += count
    return total


def compare(wanted: Counter[Port], counted: Mapping[Port, int]) -> list[PortLine]:
    """Both sides of the ledger for every data port, by name."""
    ports = sorted(set(wanted) | set(counted))
    return [
        PortLine(f"{host}:{nic}:{way}", wanted.get((host, nic, way), 0), counted.get(port, 0))
        for port in ports
        for host, nic, way in [port]
    ]
