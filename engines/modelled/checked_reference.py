"""What agents should have been given where KV is real: computed anew, without cache or network."""

from collections.abc import Iterator, Sequence

from engines.agents import AgentPlan, Author, TurnRecord
from engines.layout import KvLayout
from engines.modelled.checked import fingerprint
from engines.modelled.compute import ID_BYTES
from engines.modelled.decoder import Openings, embed, embed_rows, run, token
from engines.modelled.regions import Kv, new_kv


class CheckedReference:
    """Judges agents one at a time, from the author's content and what the agents were given."""

    def __init__(self, author: Author, layout: KvLayout, openings: Openings) -> None:
        self._author = author
        self._layout = layout
        self._openings = openings

    def check_agent(
        self, agent: AgentPlan, turns: Sequence[TurnRecord]
    ) -> Iterator[tuple[int, int, bool | None]]:
        """Of each completed turn, in order: tokens checked, tokens right, and the KV's verdict."""
        content = self._author.opening(agent.opening, agent.opening_tokens)
        held = self._openings.kv(agent.opening, agent.opening_tokens)
        for record in turns:
            request, plan = record.request, agent.turns[record.request.turn]
            if plan.keep_tokens is not None:
                content = self._author.truncate(content, plan.keep_tokens)
            kept = len(self._author.truncate(content, request.prompt_tokens)) // ID_BYTES
            held = held[:kept]
            content = self._author.extend(content, request.prompt_tokens, agent.agent, request.turn)
            kv, right = self._generate(held, content, request.context_tokens)
            held = kv[: self._layout.rows(request.prompt_tokens)]
            pairs = zip(right, _tokens(record.generated), strict=False)
            equal = sum(one == other for one, other in pairs)
            kv_equal = fingerprint(held) == record.fingerprint if record.fingerprint else None
            yield max(len(right), len(record.generated) // ID_BYTES), equal, kv_equal
            content += record.generated

    def _generate(self, held: Kv, content: bytes, context_tokens: int) -> tuple[Kv, list[bytes]]:
        """The KV of a whole context, and the tokens that are generated after its prompt."""
        rows, end = len(content) // ID_BYTES, self._layout.rows(context_tokens)
        kv = new_kv(end, self._layout.layers)
        kv[: len(held)] = held
        first = min(len(held), rows - 1)  # the prompt's last row gives the first token
        following = token(run(kv, first, embed_rows(content, first, rows))[-1])
        right = []
        for row in range(rows, end):
            right.append(following)
            following = token(run(kv, row, [embed(following, row)])[-1])
        return kv, right


def _tokens(content: bytes) -> list[bytes]:
    return [content[at : at + ID_BYTES] for at in range(0, len(content), ID_BYTES)]
