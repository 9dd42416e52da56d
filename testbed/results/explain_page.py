"""What `explain` shows on a terminal: what came when, who could have been chosen, and why not."""

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from scheduler.reasons import Candidate, Choice, Drained, Explanation, Reading
from scheduler.types import Decision, Side
from testbed.explain import Explained

MOST_ROWS = 16  # of a table of engines or groups
LATER = {
    "decode": "in decode HBM: its decode begins",
    "first_token": "first token",
    "done": "done",
    "failed": "failed",
}


def show(explained: Explained, console: Console) -> None:
    """Print the page."""
    for part in _parts(explained):
        console.print(part, highlight=False)


def _parts(explained: Explained) -> Iterator[RenderableType]:
    why = explained.why
    yield _head(explained)
    yield _timeline(explained)
    if why.decision is None:
        ended = f": {explained.failure}" if explained.failure else "."
        yield Text(f"The run ended before it was decided{ended}", style="yellow")
    if not explained.asked:
        yield Text("\nIts scheduler is another process: its reasons are its own. The books then:")
    sections = [(why.prefill, _prefill), (why.decode, _decode)]
    made = [(choice, section) for choice, section in sections if choice is not None]
    for choice, section in sorted(made, key=lambda part: part[0].at_s):
        yield Group(Text(), *section(why, choice))
    if why.reading is not None and why.decision is not None:
        yield Group(Text(), *_reading(why.reading, why.decision))


def _head(explained: Explained) -> Text:
    request = explained.why.request
    blocks = request.hit_tokens
    return Text.assemble(
        (f"request {request.id}", "bold"),
        f" (agent {request.agent}, turn {request.turn}) under ",
        (explained.policy, "bold"),
        f" · {explained.run}\n",
        f"after restart {explained.term - 1} of the scheduler\n" if explained.term > 1 else "",
        f"prompt {request.prompt_tokens:,} tokens: {blocks:,} hit, "
        f"{request.prompt_tokens - blocks:,} to compute; then {request.generate_tokens:,} to "
        "generate\n",
    )


def _timeline(explained: Explained) -> Table:
    why = explained.why
    lines = [(why.arrived_s, "at the scheduler")]
    if why.drained:
        lines.append((why.drained.at_s, f"to the private queue of DE group {why.drained.group}"))
    for side, choice in ((Side.PE, why.prefill), (Side.DE, why.decode)):
        if choice:
            lines.append((choice.at_s, _placed(side, choice)))
    if why.decision is not None and why.decided_s is not None:
        lines.append((why.decided_s, f"decided (seq {why.decision.seq}): {_reads(why.decision)}"))
    later = [(at_s, LATER[what]) for what, at_s in explained.later_s.items()]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("at, s", justify="right")
    table.add_column("after, s", justify="right")
    table.add_column("")
    # What happened at one time is told in the order in which one thing leads to the next.
    for at_s, what in sorted([*lines, *later], key=lambda line: line[0]):
        table.add_row(f"{at_s:.3f}", f"{at_s - why.arrived_s:.3f}", what)
    return table


def _placed(side: Side, choice: Choice) -> str:
    how = f"as group {choice.group} fetched" if choice.group else "unasked"
    still = f", {choice.overtaken} of them still wait" if choice.overtaken else ""
    return f"on {side.upper()} {choice.engine}, {how}; {choice.ahead} in line before it{still}"


def _reads(decision: Decision) -> str:
    if not decision.reads:
        return "nothing to read"
    parts = [f"{read.side.upper()} side reads {read.count:,} blocks" for read in decision.reads]
    return " and ".join(parts)


def _prefill(why: Explanation, choice: Choice) -> Iterator[RenderableType]:
    yield _title(f"PE {choice.engine}", choice, "Algorithm 1")
    yield Text(
        f"alpha {why.alpha_tokens:,}, beta {why.beta_tokens:,} tokens. C1: tok_e above beta; "
        "C3: the node's read_q above alpha; C2: neither. The fewest tokens of C2 are taken, else "
        "of C3."
        if choice.paper or _any_why(choice)
        else f"alpha {why.alpha_tokens:,}, beta {why.beta_tokens:,} tokens."
    )
    yield _engines(choice, Side.PE)
    yield from _scores(choice.scores)


def _decode(why: Explanation, choice: Choice) -> Iterator[RenderableType]:
    if why.drained is not None:
        yield from _drained(why.drained)
    yield _title(f"DE {choice.engine}", choice, "the rule of section 6.3")
    if why.room is not None:
        many = len(why.room.fitting)
        rest = "and no other" if many == 1 else f"and {many - 1} behind it"
        yield Text(
            f"It will hold {why.request.context_tokens:,} tokens, {why.room.needed_tokens:,} in "
            f"whole blocks. R has it {rest}; Z is {why.room.high_tokens:,.0f} tokens. Of those "
            "with room, the fewest requests below Z are taken, else the fewest tokens."
        )
    yield _engines(choice, Side.DE)
    yield from _scores(choice.scores)


def _title(what: str, choice: Choice, rule: str) -> Text:
    """Who was taken of how many, and whether the paper's rule says the same."""
    many = len(choice.candidates)
    among = f"the {many} of group {choice.group}" if choice.pulled else f"all {many}"
    title = Text.assemble((what, "bold"), f", of {among}")
    if choice.paper and choice.paper != choice.engine:
        title.append(f"; {rule} takes {choice.paper}", style="yellow")
    elif not choice.paper and not _any_why(choice):
        title.append(", by a rule of the policy's own")
    return title


def _any_why(choice: Choice) -> bool:
    return any(candidate.why_not for candidate in choice.candidates)


def _engines(choice: Choice, side: Side) -> Table:
    pe = side is Side.PE
    table = _table("", "engine", "set", "seq_e", "tok_e", "read_q" if pe else "free HBM", "why not")
    shown = list(choice.candidates[:MOST_ROWS])
    taken = next(c for c in choice.candidates if c.name == choice.engine)
    if taken not in shown:
        shown[-1] = taken
    for candidate in shown:
        last = candidate.read_queue_tokens if pe else candidate.free_hbm_tokens
        table.add_row(
            *_mark(candidate, choice),
            candidate.set,
            f"{candidate.requests:,}",
            f"{candidate.tokens:,}",
            f"{last:,}",
            candidate.why_not,
        )
    _rest(table, len(choice.candidates) - len(shown))
    return table


def _mark(candidate: Candidate, choice: Choice) -> tuple[Text, Text]:
    style = "bold green" if candidate.name == choice.engine else ""
    return Text(">" if style else "", style), Text(candidate.name, style)


def _drained(drained: Drained) -> Iterator[RenderableType]:
    yield Text.assemble(
        (f"DE group {drained.group}", "bold"),
        f", of {len(drained.loads)}: the fewest tokens, its private queue included",
    )
    table = _table("", "group", "tokens")
    ranked = sorted(drained.loads.items(), key=lambda load: load[1])  # stable: first of equal ones
    for group, load in ranked[:MOST_ROWS]:
        style = "bold green" if group == drained.group else ""
        table.add_row(Text(">" if style else "", style), Text(group, style), f"{load:,}")
    _rest(table, len(ranked) - MOST_ROWS)
    yield table
    yield Text()


def _reading(reading: Reading, decision: Decision) -> Iterator[RenderableType]:
    read_by = {read.side for read in decision.reads}
    sides = [side for side in Side if side in read_by]
    if not sides:
        yield Text.assemble(("Read path", "bold"), ": it hits nothing")
        return
    taken = " and ".join(side.upper() for side in sides)
    title = Text.assemble((f"Read by {taken} side", "bold"))
    if sides == [reading.paper]:
        title.append(f", as by the rule of section 6.4: {reading.why}")
    else:
        title.append(
            f"; the rule of section 6.4 takes {reading.paper.upper()}: {reading.why}",
            style="yellow",
        )
    yield title
    table = _table("", "side", "node", "read_q", "counted, s", "left by now", "given so far")
    for side, queue in ((Side.PE, reading.pe), (Side.DE, reading.de)):
        style = "bold green" if side in sides else ""
        table.add_row(
            Text(">" if style else "", style),
            Text(side.upper(), style),
            queue.node,
            f"{queue.read_queue_tokens:,}",
            f"{queue.counted_s:.3f}",
            f"{queue.left_tokens:,.0f}",
            f"{queue.read_tokens:,}",
        )
    yield table
    yield from _scores(reading.scores)


def _scores(scores: dict[str, object]) -> Iterator[RenderableType]:
    if not scores:
        return
    yield Text("The policy says:")
    for name, value in scores.items():
        number = f"{value:,.4g}" if isinstance(value, float) else str(value)
        yield Text(f"  {name}: {number}")


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    words: Sequence[str] = ("", "engine", "set", "why not", "group", "side", "node")
    for head in heads:
        table.add_column(head, justify="left" if head in words else "right")
    return table


def _rest(table: Table, more: int) -> None:
    if more > 0:
        table.add_row("", f"… {more:,} more")
