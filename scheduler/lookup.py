"""How the name of a policy becomes an object: a built-in one, one of a file, or an installed one.

`dualpath` is a file of `scheduler/policies/`; `basic+layerwise` is one of scheduler/ablation.py;
`my_policy.py:MyPolicy` is a class in a file; anything else is an entry point of the group
`testbed.policies`.
"""

import difflib
import pkgutil
import sys
import traceback
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from scheduler import ablation, policies
from scheduler.errors import SchedulerError
from scheduler.policy import Policy, Traits

ENTRY_POINTS = "testbed.policies"
FILE = ".py"


def names() -> list[str]:
    """Every policy that needs no file: the built-in ones, and those that other packages install."""
    return sorted({*_built_in(), *(entry.name for entry in _installed())})


def lookup(name: str, **overrides: float | None) -> Policy:
    """Make a policy by name, its traits overridden.

    Raises SchedulerError with the nearest known word, or with the line of a file that failed.
    """
    policy: Policy = _make(name)
    traits = getattr(policy, "traits", None)
    if not isinstance(traits, Traits):
        raise SchedulerError(
            f"policy {name} has no traits; give its class `traits = Traits(layerwise=True)`, or "
            "let it inherit from a policy that has them"
        )
    values = msgspec.to_builtins(traits)
    for knob, value in overrides.items():
        if knob not in values:
            raise SchedulerError(_unknown(f"knob of policy {name}", knob, list(values)))
        # Experiment files know one kind of number, and 2.0 requests are 2.
        whole = isinstance(value, float) and value.is_integer()
        values[knob] = int(value) if value is not None and whole else value
    try:
        policy.traits = msgspec.convert(values, Traits)
    except msgspec.ValidationError as error:
        raise SchedulerError(f"policy {name} cannot use {overrides}: {error}") from error
    return policy


def _make(name: str) -> Any:
    path, _, wanted = name.partition(":")
    if path.endswith(FILE):
        return _of_file(Path(path), wanted or "POLICY")
    if name in _built_in():
        module = import_module(f"scheduler.policies.{name.replace('-', '_')}")
        return _member(module, "POLICY")()
    if (ablated := ablation.parse(name)) is not None:
        return ablated
    for entry in _installed():
        if entry.name == name:
            return entry.load()()
    raise SchedulerError(_unknown("policy", name, names()))


def _of_file(path: Path, wanted: str) -> Any:
    """The class of a file, made; whatever its code raises is told with its line."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise SchedulerError(
            f"policy {path}: {error.strerror}; name a file with a policy, as in my.py:MyPolicy"
        ) from error
    module = ModuleType(f"policy_of_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and annotations look their names up
    try:
        # Compiled here, because an import would leave its bytecode beside the user's file.
        exec(compile(source, path, "exec"), module.__dict__)
        return _member(module, wanted)()
    except SchedulerError:
        raise
    except Exception as error:
        raise SchedulerError(f"policy {path} cannot be loaded: {told(error, path)}") from error


def told(error: Exception, path: Path) -> str:
    """An error and the newest of its lines that is in the file."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"


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
