"""The code that a policy brings along: what it imports besides Python's and the testbed's own."""

import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

CODE = ("engines", "scheduler", "testbed", "topologies")
INSTALLED = {"site-packages", "dist-packages"}


def imported_code(source: bytes) -> Iterator[bytes]:
    """The sources of all that a source imports, directly or not, each once.

    Of what is installed, its age stands for its sources: a new version has another one.
    """
    seen = {*CODE, *sys.stdlib_module_names}
    waiting = [source]
    while waiting:
        for name in sorted(_imports(waiting.pop()) - seen):
            seen.add(name)
            for file in _files(name):
                if INSTALLED.intersection(file.parts):
                    yield f"{name} {file.stat().st_mtime_ns}".encode()
                    break
                raw = file.read_bytes()
                yield raw
                waiting.append(raw)


def _imports(source: bytes) -> set[str]:
    """Names of the packages that it imports anywhere; none if it is no Python of this version."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _files(name: str) -> list[Path]:
    """A module's file, or all of a package's."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is not None and spec.submodule_search_locations:
        folders = [Path(folder) for folder in spec.submodule_search_locations]
        return sorted(file for folder in folders for file in folder.rglob("*.py"))
    return [Path(spec.origin)] if spec and spec.origin and spec.has_location else []
