"""The independent truth: what a single process generates that never saw a cache or a network.

It recomputes every prompt from its token ids and feeds the generated tokens back in (teacher
forcing). Decoding is greedy, so if each generated token is the best one after its predecessors,
then by induction a free-running decode would have generated the same.
"""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.errors import ComputeError
from engines.kv import Span, round_up
from engines.layout import KvLayout
from engines.real.compute import fingerprint
from engines.real.decoder import Decoder, Rows, Windows
from engines.real.pool import KvPool
from engines.real.tokens import ID_BYTES, Author, decode

HELD_OPENINGS = 64


class ReferenceTurn(msgspec.Struct, frozen=True):
    """One turn as it ran. `turn` is its number in the agent's trajectory, as the author knows it.

    `keep_tokens` real tokens of the context before it remain (None: all). `generated` is the
    content of `TurnDone`; `kv_fingerprint` of the prompt's KV at decode start, "" if not sampled.
    """

    turn: int
    keep_tokens: int | None
    prompt_tokens: int
    generate_tokens: int
    generated: bytes
    kv_fingerprint: str = ""


class TurnVerdict(msgspec.Struct, frozen=True):
    """Of `tokens_checked` emulated tokens so many are right; `kv_equal` is None if not sampled."""

    tokens_checked: int
    tokens_equal: int
    kv_equal: bool | None

    @property
    def right(self) -> bool:
        """Nothing that was checked differs."""
        return self.tokens_checked == self.tokens_equal and self.kv_equal is not False


class Reference:
    """Judges agents one at a time, in a pool of one slot; distinct openings are computed once."""

    def __init__(self, decoder: Decoder, layout: KvLayout, author: Author) -> None:
        self._decoder = decoder
        self._layout = layout
        self._author = author
        rows = round_up(decoder.padded_rows, layout.rows_per_block)
        self._pool = KvPool("reference", layout, rows * layout.token_scale)
        self._windows = Windows(self._pool, decoder.padded_rows)
        self._openings: OrderedDict[tuple[int, int], NDArray[np.float32]] = OrderedDict()

    def check_agent(
        self, agent: int, opening_id: int, opening_tokens: int, turns: Sequence[ReferenceTurn]
    ) -> list[TurnVerdict]:
        """Judge an agent's turns in order, the first of which continues the opening.

        Raises ComputeError if a context is longer than the decoder's padded rows.
        """
        content = self._author.opening(opening_id, opening_tokens)
        self._open(opening_id, opening_tokens, content)
        verdicts = []
        for turn in turns:
            if turn.keep_tokens is not None:
                content = self._author.truncate(content, turn.keep_tokens)
            # The slot holds the KV of all that is left of the content, and of nothing else.
            held = len(self._author.truncate(content, turn.prompt_tokens)) // ID_BYTES
            content = self._author.extend(content, turn.prompt_tokens, agent, turn.turn)
            verdicts.append(self._check(turn, content, held))
            content += turn.generated
        return verdicts

    def _check(self, turn: ReferenceTurn, content: bytes, held: int) -> TurnVerdict:
        layout = self._layout
        end = layout.rows(turn.prompt_tokens)
        if end == 0:
            raise ComputeError(
                f"a prompt of {turn.prompt_tokens} tokens has no emulated token at a token scale "
                f"of {layout.token_scale}; lengthen the prompt or lower the scale"
            )
        found = decode(turn.generated)
        first = min(held, end - 1)  # the prompt's last row gives the first generated token
        known = self._decoder.shape.vocabulary - 1
        ids = [min(token, known) for token in decode(content)[first:] + found]
        after = self._decoder.run(self._windows, Rows(0, first, len(ids)), ids)
        expected = after[end - 1 - first :][: self._generated_rows(turn)]
        equal = sum(one == other for one, other in zip(expected, found, strict=False))
        kv_equal = None
        if turn.kv_fingerprint:
            span = Span(self._pool.name, 0, 0, turn.prompt_tokens, 0, layout.layers)
            kv_equal = fingerprint(self._pool, span) == turn.kv_fingerprint
        return TurnVerdict(max(self._generated_rows(turn), len(found)), equal, kv_equal)

    def _generated_rows(self, turn: ReferenceTurn) -> int:
        end = turn.prompt_tokens + turn.generate_tokens
        return self._layout.rows(end) - self._layout.rows(turn.prompt_tokens)

    def _open(self, opening_id: int, tokens: int, content: bytes) -> None:
        key = opening_id, tokens
        held = self._openings.get(key)
        if held is None:
            ids = decode(content)
            self._decoder.run(self._windows, Rows(0, 0, len(ids)), ids)
            blocks = -(-len(ids) // self._layout.rows_per_block)
            self._openings[key] = self._pool.array[:blocks].copy()
            if len(self._openings) > HELD_OPENINGS:
                self._openings.popitem(last=False)
            return
        self._openings.move_to_end(key)
        self._pool.array[: len(held)] = held
