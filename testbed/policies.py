"""The policies of a session: what each is called, and the bytes of those that are files.

A file is read once, when it is chosen: who edits it while it plays changes nothing.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import msgspec
import xxhash

from scheduler.ablation import Ablation
from scheduler.errors import SchedulerError
from scheduler.lookup import file_of, lookup, read
from scheduler.policy import Policy, Traits
from testbed.errors import InputError
from testbed.external.scheduler import label
from testbed.imports import imported_code

BUILT_IN = "scheduler.policies."
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST_FOLDER = 80


class Chosen(msgspec.Struct, frozen=True):
    """A policy: `word` is how it was asked for, `name` what results call it, `folder` a safe name.

    `reads_like` is the built-in policy whose choice of read paths it has, or "". `source` is its
    file's content, None if it needs no file. `digest` is of the code that is the policy's own:
    that of built-in ones is part of the testbed's. `ready` is what a scheduler in another process
    asks of the engines, None for policies and for one that was not asked yet.
    """

    name: str
    word: str
    folder: str
    reads_like: str = ""
    digest: str = ""
    source: bytes | None = None
    ready: Traits | None = None

    def traits(self, **knobs: float | None) -> Traits:
        """What it asks of the engines, overridden; a process has said it for itself."""
        return self.make(**knobs).traits if self.ready is None else self.ready

    def make(self, **knobs: float | None) -> Policy:
        """The policy itself, its traits overridden."""
        with redirect_stdout(StringIO()):  # what a file prints was told when it was chosen
            return lookup(self.word, self.source, **knobs)

    def word_in(self, folder: Path) -> str:
        """How hosts ask for it: by the copy of its file in a run's folder."""
        found = file_of(self.word) if self.source is not None else None
        return f"{(folder / found[0].name).absolute()}:{found[1]}" if found else self.word

    def keep(self, folder: Path) -> None:
        """Write the copy of its file into a run's folder."""
        found = file_of(self.word)
        if found and self.source is not None:
            (folder / found[0].name).write_bytes(self.source)


def choose(
    words: Sequence[str], beside: Path = Path(), process: str | None = None
) -> tuple[Chosen, ...]:
    """These policies, at least one and each once; files are looked for from `beside` on.

    `process` is a scheduler in another process, the last of them.
    A class of a file goes by its name, or by its whole word where another policy is called so.
    Raises InputError.
    """
    if not (words or process) or len(set(words)) < len(words):
        raise InputError(f"--policies names {', '.join(words) or 'none'}; name each policy once")
    found = [_choose(word, beside) for word in words]
    if process is not None:
        # Its code is nobody's to read: it is never known to be that of an earlier run.
        found.append(Chosen(label(process), process, "", digest=os.urandom(16).hex()))
        words = [*words, process]
    often = Counter(policy.name for policy in found)
    taken: set[str] = set()
    named = []
    for policy, word in zip(found, words, strict=True):
        name = word if often[policy.name] > 1 else policy.name
        folder = _folder(name, taken)
        named.append(msgspec.structs.replace(policy, name=name, folder=folder))
    return tuple(named)


def choose_one(word: str) -> Chosen:
    """One policy by its word; raises InputError."""
    return choose([word])[0]


def _choose(word: str, beside: Path) -> Chosen:
    found, source, at = file_of(word), None, word
    try:
        if found:
            path = beside / found[0]
            source, at = read(path), f"{path}:{found[1]}"
        with redirect_stdout(sys.stderr):  # what it prints is talk
            made = lookup(at, source)
    except SchedulerError as error:
        raise InputError(str(error)) from error
    name = type(made).__name__ if found else word
    digest = _digest(found[1] if found else word, source, made)
    return Chosen(name, at, "", _reads_like(made, word), digest, source)


def _reads_like(policy: Policy, word: str) -> str:
    """The built-in policy whose `reads` it is."""
    if isinstance(policy, Ablation):
        return word
    for base in type(policy).__mro__:
        if base.__module__.startswith(BUILT_IN):  # which may change what its own base's reads call
            return base.__module__.removeprefix(BUILT_IN).replace("_", "-")
        if "reads" in vars(base):
            return ""
    return ""


def _digest(word: str, source: bytes | None, made: Policy) -> str:
    """Of a policy's name, or of its class's in a file, and of the code."""
    found = xxhash.xxh3_128(word.encode())
    if source is None:
        source = f"import {type(made).__module__}".encode()
    for code in (source, *imported_code(source)):
        found.update(code)
    return found.hexdigest()


def folder_names(names: Sequence[str]) -> list[str]:
    """The folders of policies that results call so, in the same order."""
    taken: set[str] = set()
    return [_folder(name, taken) for name in names]


def _folder(name: str, taken: set[str]) -> str:
    """A name that every file system takes, and none of those taken, whatever its case."""
    safe = UNSAFE.sub("-", name)[-LONGEST_FOLDER:].strip(".-") or "policy"
    folder, number = safe, 1
    while folder.casefold() in taken:
        number += 1
        folder = f"{safe}-{number}"
    taken.add(folder.casefold())
    return folder
