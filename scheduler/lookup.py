"""How the name of a policy becomes an object: a built-in one, one of a file, or an installed one.

`dualpath` is a file of `scheduler/policies/`; `basic+layerwise` is one of scheduler/ablation.py;
`my_policy.py:MyPolicy` is a class in a file; anything else is an entry point of the group
`testbed.policies`.
"""

import difflib
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from scheduler import ablation, policies
from scheduler.errors import SchedulerError
from scheduler.policy import Policy, Traits

ENTRY_POINTS = "testbed.policies"
FILE = re.compile(r"(?P<path>.+\.py)(:(?P<wanted>\w*))?")


def names() -> list[str]:
    """Every policy that needs no file: the built-in ones, and those that other packages install."""
    return sorted({*_built_in(), *(entry.name for entry in _installed())})


def file_of(name: str) -> tuple[Path, str] | None:
    """The file and the class that a policy's name speaks of; None for those that need no file."""
    found = FILE.fullmatch(name)
    return (Path(found["path"]), found["wanted"] or "POLICY") if found else None


def lookup(name: str, source: bytes | None = None, /, **overrides: float | None) -> Policy:
    """Make a policy by name, its traits overridden; `source` is its file's, if it was read before.

    Raises SchedulerError with the nearest known word, or with the line of a file that failed.
    """
    policy: Policy = _make(name, source)
    traits = getattr(policy, "traits", None)
    if not isinstance(traits, Traits):
        raise SchedulerError(
            f"policy {name} has no traits; give its class `traits = Traits(layerwise=True)`, or "
            "let it inherit from a policy that has them"
        )
    _require_decisions(name, policy)
    values = msgspec.to_builtins(traits)
    for knob, value in overrides.items():
        if knob not in values:
            raise SchedulerError(_unknown(f"knob of policy {name}", knob, list(values)))
        # Experiment files know one kind of number, and 2.0 requests are 2.
        whole = isinstance(value, float) and value.is_integer()
        values[knob] = int(value) if value is not None and whole else value
    try:
        policy.traits = msgspec.convert(values, Traits)
    except (msgspec.ValidationError, AttributeError) as error:
        with_ = f" with {overrides}" if overrides else ""
        raise SchedulerError(f"policy {name}: its traits cannot be{with_}: {error}") from error
    return policy


def _require_decisions(name: str, policy: Policy) -> None:
    """Raise SchedulerError unless the scheduler can call all that it will call.

    These are the decisions of every policy, and whatever the class changes of a policy here.
    """
    wanted = _decisions(Policy)
    for base in reversed(type(policy).__mro__):
        if base.__module__.startswith("scheduler."):
            wanted |= _decisions(base)
    for word, decision in wanted.items():
        asked = list(inspect.signature(decision).parameters)[1:]
        call = f"{word}({', '.join(asked)})"
        method = getattr(policy, word, None)
        if not callable(method):
            raise SchedulerError(
                f"policy {name} has no method {call}; write it, or let the class inherit from a "
                "policy that has it, as from scheduler.policies.dualpath.DualPath"
            )
        try:
            inspect.signature(method).bind(*asked)
        except (TypeError, ValueError) as error:
            raise SchedulerError(
                f"policy {name}: {word} cannot be called as {call}: {error}; correct its parameters"
            ) from error
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise SchedulerError(f"policy {name}: {word} is async; write it as a plain `def`")
        if word in ("reads", "ended") and inspect.isgeneratorfunction(method):
            raise SchedulerError(
                f"policy {name}: {word} yields, and would never run; let it return"
            )


def _decisions(base: type) -> dict[str, Callable[..., Any]]:
    public = {word: value for word, value in vars(base).items() if not word.startswith("_")}
    return {word: value for word, value in public.items() if inspect.isfunction(value)}


def _make(name: str, source: bytes | None) -> Any:
    if found := file_of(name):
        return _of_file(*found, source)
    if name in _built_in():
        module = import_module(f"scheduler.policies.{name.replace('-', '_')}")
        return _member(module, "POLICY")()
    if (ablated := ablation.parse(name)) is not None:
        return ablated
    for entry in _installed():
        if entry.name == name:
            try:
                return entry.load()()
            except (Exception, SystemExit) as error:
                raise SchedulerError(
                    f"policy {name} ({entry.value}, installed) cannot be loaded: "
                    f"{type(error).__name__}: {error}"
                ) from error
    raise SchedulerError(_unknown("policy", name, names()))


def read(path: Path) -> bytes:
    """The bytes of a policy's file; SchedulerError if there are none."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SchedulerError(
            f"policy {path}: {why}; name a file with a policy, as in my.py:MyPolicy"
        ) from error


def _of_file(path: Path, wanted: str, source: bytes | None) -> Any:
    """The class of a file, made; whatever its code raises is told with its line."""
    source = read(path) if source is None else source
    # Of its own name: two files of different folders may have the same one.
    module = ModuleType(f"policy of {path}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and annotations look their names up
    try:
        # Compiled here, because an import would leave its bytecode beside the user's file.
        exec(compile(source, path, "exec"), module.__dict__)
        return _member(module, wanted)()
    except SchedulerError:
        raise
    except (Exception, SystemExit) as error:
        raise SchedulerError(f"policy {path} cannot be loaded: {told(error, path)}") from error


def told(error: BaseException, path: Path) -> str:
    """An error and the newest of its lines that is in the file."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        other = "" if error.filename == str(path) else f"{error.filename}, "
        return f"{other}line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {' '.join(str(error).split())}"


def _member(module: ModuleType, wanted: str) -> Any:
    if hasattr(module, wanted):
        return getattr(module, wanted)
    if wanted == "POLICY":
        raise SchedulerError(
            f"{module.__file__} names no policy; end it with POLICY = and the class that decides, "
            "or name the class, as in my.py:MyPolicy"
        )
    classes = [word for word, value in vars(module).items() if isinstance(value, type)]
    raise SchedulerError(_unknown(f"class in {module.__file__}", wanted, classes or ["none"]))


def _built_in() -> list[str]:
    modules = pkgutil.iter_modules(policies.__path__)
    return sorted(module.name.replace("_", "-") for module in modules)


def _installed() -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=ENTRY_POINTS))


def _unknown(kind: str, word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"there is no {kind} {word!r}; did you mean {near[0]!r}? Known: {', '.join(known)}"
