"""The words between engines and scheduler: events in, decisions out.

Everything is in target units: real tokens, real seconds, real bytes. Each event carries
its time, so a scheduler needs no clock. None of them holds itself: the garbage collector need not
look (`gc=False`).
"""

from enum import StrEnum

import msgspec

ALPHA_S = 3.0  # of one node's storage reads, in `alpha_tokens` (DualPath section 6.2)


class Side(StrEnum):
    """The side of the cluster whose storage NIC reads a request's KV."""

    PE = "pe"
    DE = "de"


class EngineSpec(msgspec.Struct, frozen=True):
    """One GPU as the scheduler knows it; a folded process stands for several of these.

    `name` is `<node>/<lane>`; `hbm_tokens` is what fits into its HBM free for KV.
    """

    name: str
    side: Side
    node: str
    group: str
    hbm_tokens: int


class ClusterSpec(msgspec.Struct, frozen=True):
    """What does not change during a run.

    `alpha_tokens` is what one node's storage path reads in ALPHA_S, `beta_tokens` what one GPU
    processes in 5 s (both profiled; DualPath section 6.2). `seed` is the run's: a policy that
    draws lots draws the same ones for the same seed. `dram_cache_tokens` is what each node's DRAM
    cache keeps (scheduler/prefix.py says by which rule).
    """

    engines: tuple[EngineSpec, ...]
    block_tokens: int
    alpha_tokens: int
    beta_tokens: int
    seed: int = 0
    dram_cache_tokens: int = 0


class Extent(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Blocks `first` to `first + count` of one chain; a prompt's hits are a few of these.

    Block n of a chain is block n of every prompt that has it, and never changes.
    """

    chain: int
    first: int
    count: int


class Request(msgspec.Struct, frozen=True, gc=False):
    """One turn of an agent: `hit_tokens` (whole blocks) are in storage, the rest is computed.

    `context` says which blocks these are, which is the prefix's identity; new ones go to `chain`.
    """

    id: int
    agent: int
    turn: int
    prompt_tokens: int
    hit_tokens: int
    generate_tokens: int
    context: tuple[Extent, ...] = ()
    chain: int = 0

    @property
    def context_tokens(self) -> int:
        """Tokens that the turn holds in decode HBM at its end."""
        return self.prompt_tokens + self.generate_tokens


class EngineReport(msgspec.Struct, frozen=True, gc=False):
    """What one engine holds: unfinished requests, their tokens, and free HBM in tokens.

    `seen` is the last decision that this report includes: what was assigned after it is
    still on its way, and the scheduler adds it itself. `cnic_backlog_tokens` are on their way out
    of the engine's HBM, and not acknowledged yet.
    """

    engine: str
    requests: int
    tokens: int
    free_hbm_tokens: int
    seen: int
    cnic_backlog_tokens: int = 0


class NodeReport(msgspec.Struct, frozen=True, gc=False):
    """A node's storage-read queue, in tokens not yet arrived; `seen` as in EngineReport.

    Reads of a DE node that have no room in its DRAM yet count only while its storage NIC is busy,
    or as far as they are more than its DRAM holds: they need that room whichever side reads.
    `at_s` is when the node counted, None if that was when the group fetched.

    The rest is for policies that want it: room in the node's DRAM that no turn has, tokens that its
    storage NIC has to write before storage keeps them, and tokens on their way out of its DRAM to
    engines.
    """

    node: str
    read_queue_tokens: int
    seen: int
    at_s: float | None = None
    free_dram_tokens: int = 0
    write_backlog_tokens: int = 0
    cnic_backlog_tokens: int = 0


class Arrived(msgspec.Struct, frozen=True, gc=False, tag="arrived"):
    """A client submitted a request."""

    now_s: float
    request: Request


class Fetch(msgspec.Struct, frozen=True, gc=False, tag="fetch"):
    """A group's leader pulls work and reports what its engines and their nodes hold."""

    now_s: float
    group: str
    engines: tuple[EngineReport, ...]
    nodes: tuple[NodeReport, ...]


class Ended(msgspec.Struct, frozen=True, gc=False, tag="ended"):
    """A request reached its terminal state: done, or failed for a reason."""

    now_s: float
    request_id: int
    reason: str = "done"


Event = Arrived | Fetch | Ended


class ReadExtent(msgspec.Struct, frozen=True, gc=False):
    """Blocks `first` to `first + count` of the prompt are read on `side`.

    Of these the scheduler expects `cached` in that node's DRAM: they are not read from storage.
    """

    side: Side
    first: int
    count: int
    cached: int = 0


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Where a request is prefilled, decoded, and which side reads which blocks of it."""

    seq: int
    request_id: int
    pe: str
    de: str
    reads: tuple[ReadExtent, ...]
