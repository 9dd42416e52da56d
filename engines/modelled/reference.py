"""What agents should have been given: the modelled tokens, from content alone."""

from collections.abc import Iterator, Sequence

from engines.agents import AgentPlan, Author, TurnRecord
from engines.modelled.compute import ID_BYTES, next_content


def check_agent(
    author: Author, token_scale: int, agent: AgentPlan, turns: Sequence[TurnRecord]
) -> Iterator[tuple[int, int]]:
    """Of each completed turn, in order: tokens checked, and tokens that are right."""
    content = author.opening(agent.opening, agent.opening_tokens)
    for record in turns:
        request, plan = record.request, agent.turns[record.request.turn]
        if plan.keep_tokens is not None:
            content = author.truncate(content, plan.keep_tokens)
        content = author.extend(content, request.prompt_tokens, agent.agent, request.turn)
        right = _generated(content, token_scale, request.prompt_tokens, request.context_tokens)
        pairs = zip(_tokens(right), _tokens(record.generated), strict=False)
        yield len(right) // ID_BYTES, sum(one == other for one, other in pairs)
        content += record.generated


def _generated(content: bytes, token_scale: int, prompt_tokens: int, end_tokens: int) -> bytes:
    generated, token = b"", content
    for row in range(prompt_tokens // token_scale, end_tokens // token_scale):
        token = next_content(token, row)
        generated += token
    return generated


def _tokens(content: bytes) -> list[bytes]:
    return [content[at : at + ID_BYTES] for at in range(0, len(content), ID_BYTES)]
