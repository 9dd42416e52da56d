"""Hints, by what a run shows the code to do; each goes from what you see to the book that has it.

They read how choices went, never the code, so they hold for whatever way it was written.
"""

from testbed.labs.player import Broken, Played
from testbed.labs.result import Hint

CONSTANT = 0.98  # of all requests on one side
IN_TURN = 0.97  # of all requests on the other side than the one before
ON_LONGER = 0.03  # of all requests on the side that had more to read

BOOKS = (
    "`cluster.node_of(pe)` and `cluster.node_of(de)` are the books of the two nodes: "
    "`NodeBook` in scheduler/books.py. "
)
QUEUE = BOOKS + "`read_queue_tokens` is what the node's storage NIC has still to read."


def of_file(fault: str) -> Hint:
    """The file itself is not as the lab wants it."""
    return Hint(
        "file",
        (
            _sentence(fault),
            "Only the lines between the two marks are yours; at most 30 of them may be code.",
            "`testbed lab start idle-snic FOLDER` makes a fresh starter in another folder.",
        ),
    )


def of_broken(run: Broken) -> Hint:
    """The run did not come to its end."""
    look = {
        "load": "Python could not read the file, or make an object of its class. "
        "`python starter.py` shows the same error.",
        "raised": "The line is in your code. For which requests can it go wrong? "
        "The first request of an agent may hit nothing at all.",
        "answer": "Every way through `side` has to end with `return Side.PE` or "
        "`return Side.DE`; a text such as 'pe' is neither.",
        "loop": "`side` is asked once a request and has to answer at once: it cannot wait for a "
        "queue to become shorter. Look for a `while` whose condition never changes.",
        "stuck": "No request was decided any more. If you changed `arrived` or `fetch`, take that "
        "back: this lab is about `side` alone.",
        "ended": "Your code ended Python itself.",
    }[run.kind]
    book = (
        "What `side` is given: the books (scheduler/cluster.py, scheduler/books.py) and the "
        "request (`Request` in scheduler/types.py)."
    )
    return Hint(run.kind, (_sentence(run.what), look, book))


def of_choices(run: Played) -> Hint:
    """Storage NICs are not used as they could be: why?"""
    choices = run.choices
    total = max(1, choices.requests)
    pe = choices.pe / total
    if pe >= CONSTANT or pe <= 1 - CONSTANT:
        return _constant(run, pe)
    if choices.turned / total >= IN_TURN:
        return Hint(
            "alternates",
            (
                "You take the sides in turn, so each side gets half of the reads: "
                f"{_shares(run)}. Where one side has more or faster storage NICs, half is wrong.",
                "Nobody tells the scheduler how fast a NIC is. Which number grows at a node "
                "whose NIC is slow, or is asked too often?",
                QUEUE,
            ),
        )
    if choices.longer / total > ON_LONGER:
        return Hint(
            "wrong-queue",
            (
                f"Your choice changes, but in {choices.longer} of {choices.requests} requests "
                f"you took the node that had more to read. {_shares(run)}.",
                "Do you compare what the storage NICs have to do? An engine's `tokens` and "
                "`requests` are work for GPUs. A report (`last`) is as old as the last fetch. "
                "And what you count yourself never falls when a read is over.",
                QUEUE + " It already has every read that was promised since the last report.",
            ),
        )
    return _ties(run)


def _constant(run: Played, pe: float) -> Hint:
    side, other = ("prefill", "decode") if pe > 0.5 else ("decode", "prefill")
    moved = "" if pe > 0.5 else " The bottleneck has moved; it is not gone."
    return Hint(
        "only-pe" if pe > 0.5 else "only-de",
        (
            f"All reads are on the {side} side: {_shares(run)}. The {other} side's storage NICs "
            f"do nothing.{moved}",
            "No constant answer can use both sides. Which of the four arguments of `side` "
            "tells how much each storage NIC has to do right now?",
            QUEUE,
        ),
    )


def _ties(run: Played) -> Hint:
    choices = run.choices
    return Hint(
        "ties",
        (
            f"In {choices.tied} of {choices.requests} requests both nodes had equally much to "
            f"read, and in {choices.tied_pe} of these you took the prefill node. {_shares(run)}.",
            "With little load, both queues are mostly empty. What does your code say if the two "
            "numbers are equal? `<` and `<=` are both a rule, and each always takes one side.",
            "Remember what each node was given to read, in an `__init__` that first calls "
            "`super().__init__()`; a tie goes to the one that was given less. Or find a number in "
            "`NodeBook` (scheduler/books.py) that says as much.",
        ),
    )


def _shares(run: Played) -> str:
    return ", ".join(f"{node} reads {share:.0%}" for node, share in run.read_share.items())


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."
