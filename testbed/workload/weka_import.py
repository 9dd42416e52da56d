"""Makes `traces/weka-coding/sessions.jsonl` from the recorded sessions of kv-cache-tester.

`python -m testbed.workload.weka_import FILE... > sessions.jsonl`, each FILE one session a line,
plain, .gz or .xz. The selection rule is in `traces/weka-coding/README.md`.
"""

import gzip
import lzma
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import msgspec

from testbed.workload.weka import Session

BLOCK_TOKENS = 64
MAX_PROMPT_TOKENS = 65_536
MIN_TURNS = 20


class RecordedTurn(msgspec.Struct, rename={"prompt_tokens": "in", "generated_tokens": "out"}):
    """One request of a recording; a sub-agent's has no prompt of its own."""

    type: str
    prompt_tokens: int = 0
    generated_tokens: int = 0
    hash_ids: list[int] = []


class Recording(msgspec.Struct):
    """One recorded session."""

    id: str
    requests: list[RecordedTurn]


def select(recording: Recording) -> Session | None:
    """The session up to its first prompt over 64K tokens, if it has no sub-agents and 20 turns."""
    if any(request.type == "subagent" for request in recording.requests):
        return None
    turns: list[tuple[int, int, int | None]] = []
    before: RecordedTurn | None = None
    for request in recording.requests:
        if request.prompt_tokens > MAX_PROMPT_TOKENS:
            break
        keep = None if before is None else _keep(before, request)
        turns.append((max(1, request.prompt_tokens), max(1, request.generated_tokens), keep))
        before = request
    return Session(recording.id, tuple(turns)) if len(turns) >= MIN_TURNS else None


def _keep(before: RecordedTurn, request: RecordedTurn) -> int | None:
    """None if the turn only appended; else the common prefix of both prompts, in tokens.

    Append-only: the prompt is no shorter, and all full blocks of the previous prompt are its
    first blocks.
    """
    common = 0
    for old, new in zip(before.hash_ids, request.hash_ids, strict=False):
        if old != new:
            break
        common += 1
    longer = request.prompt_tokens >= before.prompt_tokens
    if longer and common == len(before.hash_ids):
        return None
    return common * BLOCK_TOKENS


def _recordings(path: Path) -> Iterator[Recording]:
    decoder = msgspec.json.Decoder(Recording)
    with ExitStack() as stack:
        lines: Iterable[bytes]
        if path.suffix == ".gz":
            lines = stack.enter_context(gzip.open(path, "rb"))
        elif path.suffix == ".xz":
            lines = stack.enter_context(lzma.open(path, "rb"))
        else:
            lines = stack.enter_context(path.open("rb"))
        for line in lines:
            yield decoder.decode(line)


def convert_recordings(paths: Sequence[Path], out: IO[bytes]) -> int:
    """Write every selected session, by id; returns how many."""
    selected = [select(recording) for path in paths for recording in _recordings(path)]
    sessions = sorted((one for one in selected if one is not None), key=lambda one: one.id)
    for session in sessions:
        out.write(msgspec.json.encode(session) + b"\n")
    return len(sessions)


if __name__ == "__main__":
    convert_recordings([Path(name) for name in sys.argv[1:]], sys.stdout.buffer)
