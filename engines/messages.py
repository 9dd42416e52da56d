"""What hosts say to each other, in the order of a turn's life. All in target units.

Notes ride on writes (doorbells) and arrive with the data; the rest are plain messages.
"""

import msgspec

from engines.kv import Extent, Span
from scheduler.types import Decision, EngineReport, NodeReport, Request, Side


class Word(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message, or a part of one; none holds itself, so the garbage collector passes them by."""


class Submit(Word, frozen=True, tag="submit"):
    """Client to scheduler: a turn. `content` is opaque to everything but compute and digests.

    Its `context` says where in storage the hit blocks lie, its `chain` where new blocks go.
    """

    request: Request
    content: bytes


class Assign(Word, frozen=True, tag="assign"):
    """Scheduler to the turn's prefill engine, decode engine and both buffers.

    A host takes it only in the term that it is of (engines/terms.py).
    """

    decision: Decision
    turn: Submit
    term: int = 1


class Granted(Word, frozen=True, tag="granted"):
    """DE buffer to PE: the turn has its slot in the DE buffer, for its whole prompt."""

    request: int
    slot: Span


class Read(Word, frozen=True, tag="read"):
    """Buffer to storage: write these extents into my slot."""

    request: int
    extents: tuple[Extent, ...]
    into: Span


class ReadDone(Word, frozen=True, tag="read-done"):
    """Storage to buffer, doorbell of the read's write: the Full Blocks are in place."""

    request: int
    span: Span


class ReadDigests(Word, frozen=True, tag="read-digests"):
    """Storage to buffer, on the management network: the digests, or why there are none."""

    request: int
    span: Span
    digests: bytes
    error: str = ""


class Loaded(Word, frozen=True, tag="loaded"):
    """A buffer to PE: these hit blocks of the prompt are in my DRAM, checked."""

    request: int
    side: Side
    slot: Span
    first: int
    last: int


class Pull(Word, frozen=True, tag="pull"):
    """PE to a buffer: write what you loaded, layer by layer, into this slot of my HBM."""

    request: int
    source: Span
    into: Span
    first: int
    last: int


class LayerLoaded(Word, frozen=True, tag="layer-loaded"):
    """Buffer to PE, doorbell: hit tokens `first` to `last` of one layer are in HBM."""

    request: int
    layer: int
    first: int
    last: int


class LayerDone(Word, frozen=True, tag="layer-done"):
    """PE to DE buffer, doorbell: `tokens` tokens of one layer's KV.

    The final one, of the last layer, brings what the prefill generated: the first token.
    """

    request: int
    layer: int
    tokens: int
    final: bool = False
    content: bytes = b""


class FirstToken(Word, frozen=True, tag="first-token"):
    """PE to client: the prefill is over; the time is the end of its forward."""

    request: int
    at_s: float


class Admit(Word, frozen=True, tag="admit"):
    """DE buffer to DE: the whole prompt is here; where in HBM may it go?

    `content` is what the prefill generated.
    """

    request: int
    content: bytes


class Admitted(Word, frozen=True, tag="admitted"):
    """DE to DE buffer: the slot in HBM, for prompt and generation."""

    request: int
    slot: Span


class Start(Word, frozen=True, tag="start"):
    """DE buffer to DE, doorbell of the H2D write: decode may begin."""

    request: int


class Append(Word, frozen=True, tag="append"):
    """DE to DE buffer, doorbell: generated blocks completed; persist them.

    `generated` is what followed the prompt's content so far; `first_block` counts from the
    prompt's beginning.
    """

    request: int
    first_block: int
    count: int
    span: Span
    generated: bytes


class Persist(Word, frozen=True, tag="persist"):
    """Buffer to storage, doorbell: keep these blocks, whose digests these are."""

    request: int
    extent: Extent
    span: Span
    digests: bytes


class Kept(Word, frozen=True):
    """An extent of a turn that storage keeps, and the span that it was written from."""

    request: int
    extent: Extent
    span: Span


class Persisted(Word, frozen=True, tag="persisted"):
    """Storage to buffer, then buffer to DE: a restart of storage would find these blocks."""

    kept: tuple[Kept, ...]


class TurnDone(Word, frozen=True, tag="turn-done"):
    """DE to client and scheduler: the last token is out and every full block is in storage.

    `content` is what was generated. Times are target seconds.
    """

    request: int
    content: bytes
    decode_start_s: float
    second_token_s: float
    last_token_s: float
    kv_fingerprint: str = ""


class TurnFailed(Word, frozen=True, tag="turn-failed"):
    """Anyone to everyone on the turn: it ends here, for this reason."""

    request: int
    reason: str


class Report(Word, frozen=True, tag="report"):
    """Member to its group's leader, and leader to the scheduler: what its parts hold."""

    group: str
    engines: tuple[EngineReport, ...]
    nodes: tuple[NodeReport, ...]
    term: int = 1


class NewTerm(Word, frozen=True, tag="new-term"):
    """Scheduler to every host: I know nothing of before; say what you hold, or submit it again."""

    term: int


class Holds(Word, frozen=True, tag="holds"):
    """A host's answer: turns that it was assigned and has, and those that it is through with.

    `through` has the newest turn of each agent at most; `ended` are turns that are over as a
    whole, done or failed.
    """

    term: int
    held: tuple[Decision, ...]
    through: tuple[int, ...]
    ended: tuple[int, ...]


class Resubmitted(Word, frozen=True, tag="resubmitted"):
    """The clients' answer: every turn that has not ended was submitted again before this."""

    term: int


class Join(Word, frozen=True, tag="join"):
    """Engine to its group, over the management network: I can start step `step` at `start_s`.

    A layer takes my slowest GPU `attention_s`; `expert_s` is the experts' work that my GPUs bring,
    for each of them.
    """

    step: int
    attention_s: float
    expert_s: float
    start_s: float


class Barrier(Word, frozen=True, tag="barrier"):
    """Engine to its group, class MODEL: my part of an exchange of layer `layer` of step `step`.

    The layer's dispatch comes first, when attention is over, then its `combine`; I was there at
    `end_s`. `load` stands for the activations; large ones come in pieces, of which the `last`
    counts and has `before` bytes before it. I dispatched `tokens`. It was posted at `posted_s`, and
    on an idle network all that I sent to anybody would have left `clear_s` later.
    """

    step: int
    layer: int
    end_s: float
    load: bytes
    combine: bool = False
    last: bool = True
    before: int = 0
    tokens: int = 0
    posted_s: float = 0.0
    clear_s: float = 0.0

    @property
    def size_bytes(self) -> int:
        """All pieces up to this one."""
        return self.before + len(self.load)


class Drain(Word, frozen=True, tag="drain"):
    """Client to every host: the workload is over; finish, write your account, and leave."""


Message = (
    Submit
    | Assign
    | Granted
    | Read
    | ReadDone
    | ReadDigests
    | Loaded
    | Pull
    | LayerLoaded
    | LayerDone
    | FirstToken
    | Admit
    | Admitted
    | Start
    | Append
    | Persist
    | Persisted
    | TurnDone
    | TurnFailed
    | Report
    | NewTerm
    | Holds
    | Resubmitted
    | Join
    | Barrier
    | Drain
)
