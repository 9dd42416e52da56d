"""YAML into typed, bounded structs, where every complaint names a file, a line and a key.

Scalars follow YAML 1.2: `80e9` is a number, `on` is a text. Aliases and tags are refused.
"""

import math
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from testbed.errors import InputError

Key = tuple[str | int, ...]
T = TypeVar("T")

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 16
NEAR = 0.6  # of two names' letters: below, one is no slip of the pen for the other
MOST_LISTED, FEW_LISTED = 16, 5  # names in a message that none of them is near to
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


class Document:
    """Plain data of a YAML file, and the place where each of its keys was written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data: dict[str, Any] = {}
        self.places: dict[Key, str] = {}

    def place(self, *key: str | int) -> str:
        """`file:line` of a key, or of the nearest section around it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.name)

    def graft(self, key: str, other: "Document") -> None:
        """Put another document's data under a top-level key; its places stay its own."""
        self.forget(key)
        self.data[key] = other.data
        self.places |= {(key, *path): place for path, place in other.places.items()}

    def set(self, assignment: str) -> None:
        """Apply `a.b.c=value`, where the value is YAML; later complaints name the assignment."""
        dotted, equals, text = assignment.partition("=")
        keys = tuple(dotted.strip().split("."))
        place = f"--set {assignment}"
        if not equals or not all(keys):
            raise InputError(f"{place}: not an assignment; write --set section.key=value")
        section = self.data
        for depth, key in enumerate(keys[:-1], start=1):
            if key not in section:
                section[key] = {}
                self.places[keys[:depth]] = place
            section = section[key]
            if not isinstance(section, dict):
                raise InputError(f"{place}: {key!r} is a value, not a section; leave out its keys")
        self.forget(*keys)
        section[keys[-1]] = _Reader(self, place).read(text, keys)

    def forget(self, *key: str | int) -> None:
        """Drop the places at and below a key."""
        self.places = {path: at for path, at in self.places.items() if path[: len(key)] != key}


def read_yaml(path: Path) -> Document:
    """The document of a YAML file whose top is a mapping; raises InputError."""
    document = Document(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InputError(f"{path}: is larger than {MAX_FILE_BYTES} bytes; this is no such file")
    data = _Reader(document, None).read(text, ())
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: holds no sections; start with `key: value` lines")
    document.data = data
    return document


class _Reader:
    """Builds plain data from YAML nodes; `place` stands for every line if it is given."""

    def __init__(self, document: Document, place: str | None) -> None:
        self._document = document
        self._place = place
        self._seen: set[int] = set()

    def read(self, text: str, key: Key) -> Any:
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
            raise InputError(
                f"{self._where(line)}: not valid YAML: {problem}; check indentation, "
                "colons and quotes around this line"
            ) from error
        except RecursionError as error:
            raise InputError(f"{self._where(1)}: nested far too deep; flatten it") from error
        self._document.places[key] = self._where(1)
        return None if node is None else self._value(node, key)

    def _where(self, line: int) -> str:
        return self._place or f"{self._document.name}:{line}"

    def _value(self, node: yaml.Node, key: Key) -> Any:
        where = self._where(node.start_mark.line + 1)
        if id(node) in self._seen:
            raise InputError(f"{where}: aliases are not supported; write the value out")
        if len(key) > MAX_DEPTH:
            raise InputError(f"{where}: nested deeper than {MAX_DEPTH} levels; flatten it")
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for number, item in enumerate(node.value):
                self._document.places[(*key, number)] = self._where(item.start_mark.line + 1)
                items.append(self._value(item, (*key, number)))
            return items
        quoted = isinstance(node, yaml.ScalarNode) and node.style
        return node.value if quoted else _scalar(node.value, where)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name_node, value_node in node.value:
            where = self._where(name_node.start_mark.line + 1)
            name = name_node.value
            if not isinstance(name, str):
                raise InputError(f"{where}: a key must be a plain word")
            if name in result:
                first = self._document.place(*key, name)
                raise InputError(
                    f"{where}: duplicate key {name!r} (first at {first}); remove one of them"
                )
            self._document.places[(*key, name)] = where
            result[name] = self._value(value_node, (*key, name))
        return result


def _scalar(text: str, where: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INT.fullmatch(text) and len(text) <= 20:
        return int(text)
    if _FLOAT.fullmatch(text):
        if math.isfinite(value := float(text)):
            return value
        raise InputError(f"{where}: {text} is too large a number; write a finite one")
    return text


def convert(document: Document, kind: type[T]) -> T:
    """The document as a struct of type `kind`; raises InputError at the first wrong key."""
    _check(document, document.data, inspect.type_info(kind), ())
    try:
        return msgspec.convert(document.data, kind)
    except msgspec.ValidationError as error:
        raise InputError(
            f"{document.name}: {error}; see the packaged files for examples"
        ) from error


def nearest(name: object, known: Sequence[str], what: str = "known") -> str:
    """`nearest known: 'x'`; if none is near, all names, or of many those that are least far."""
    close = get_close_matches(str(name), known, n=1, cutoff=NEAR)
    if close:
        return f"nearest {what}: {close[0]!r}"
    if len(known) <= MOST_LISTED:
        return f"{what}: {', '.join(repr(name) for name in sorted(known))}"
    some = get_close_matches(str(name), known, n=FEW_LISTED, cutoff=0.0)
    more = len(known) - len(some)
    return f"{what}: {', '.join(repr(name) for name in some)} and {more} more"


def _check(document: Document, value: Any, kind: inspect.Type, key: Key) -> None:
    if isinstance(kind, inspect.UnionType):
        kind = _member(document, value, kind, key)
    if isinstance(kind, inspect.StructType):
        _check_struct(document, value, kind, key)
    elif isinstance(kind, inspect.DictType):
        if not isinstance(value, dict):
            raise _wrong(document, value, "a section of `name: ...` lines", key)
        for name, item in value.items():
            _check(document, item, kind.value_type, (*key, name))
    elif isinstance(kind, inspect.VarTupleType):
        if not isinstance(value, list):
            raise _wrong(document, value, "a list, such as [a, b]", key)
        for number, item in enumerate(value):
            _check(document, item, kind.item_type, (*key, number))
    elif not _fits(value, kind):
        raise _wrong(document, value, _allowed(kind), key)


def _check_struct(document: Document, value: Any, kind: inspect.StructType, key: Key) -> None:
    if not isinstance(value, dict):
        raise _wrong(document, value, "a section of `key: value` lines", key)
    section = _section(key)
    known = [field.encode_name for field in kind.fields]
    names = [*known, kind.tag_field] if kind.tag_field else known
    for name in value:
        if name not in names:
            raise InputError(
                f"{document.place(*key, name)}: unknown key {name!r} in {section}; "
                f"{nearest(name, names)}"
            )
    for field in kind.fields:
        if field.encode_name in value:
            _check(document, value[field.encode_name], field.type, (*key, field.encode_name))
        elif field.required:
            raise InputError(
                f"{document.place(*key)}: key {field.encode_name!r} is missing in {section}; "
                f"give it {_allowed(field.type)}"
            )


def _member(document: Document, value: Any, kind: inspect.UnionType, key: Key) -> inspect.Type:
    """The member of a union that a value means: by its tag, or None, or the only other one.

    A union of several plain values stays whole.
    """
    structs = {m.tag: m for m in kind.types if isinstance(m, inspect.StructType) and m.tag}
    if not structs:
        others = [m for m in kind.types if not isinstance(m, inspect.NoneType)]
        if len(others) > 1:
            return kind  # of plain values, each by itself
        return inspect.NoneType() if value is None and len(others) < len(kind.types) else others[0]
    field = str(next(iter(structs.values())).tag_field)
    names = [str(tag) for tag in structs]
    if not isinstance(value, dict):
        raise _wrong(document, value, f"a section with {field!r}: {' or '.join(names)}", key)
    if field not in value:
        raise InputError(
            f"{document.place(*key)}: key {field!r} is missing in {_section(key)}; "
            f"give it {' or '.join(names)}"
        )
    tag = value[field]
    if tag not in names:
        raise InputError(
            f"{document.place(*key, field)}: {_dotted((*key, field))} cannot be {tag!r}; "
            f"{nearest(tag, names)}"
        )
    return structs[tag]


def _fits(value: Any, kind: inspect.Type) -> bool:
    match kind:
        case inspect.LiteralType():
            return type(value) is type(kind.values[0]) and value in kind.values
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.NoneType():
            return value is None
        case inspect.UnionType():
            return any(_fits(value, member) for member in kind.types)
        case inspect.StrType():
            return isinstance(value, str) and len(value) >= (kind.min_length or 0)
        case inspect.IntType() | inspect.FloatType():
            number = int if isinstance(kind, inspect.IntType) else (int, float)
            return isinstance(value, number) and not isinstance(value, bool) and _in(value, kind)
        case _:
            raise TypeError(f"yamlfile knows no {kind}")


def _in(value: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.gt is None or value > kind.gt)
        and (kind.ge is None or value >= kind.ge)
        and (kind.lt is None or value < kind.lt)
        and (kind.le is None or value <= kind.le)
    )


def _allowed(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType():
            return "one of " + ", ".join(str(value) for value in kind.values)
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "a text"
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            lows = (("above", kind.gt), ("at least", kind.ge))
            highs = (("below", kind.lt), ("at most", kind.le))
            bounds = [f"{word} {bound:g}" for word, bound in (*lows, *highs) if bound is not None]
            return " ".join([noun, " and ".join(bounds)]).strip()
        case inspect.UnionType():
            return " or ".join(_allowed(member) for member in kind.types)
        case inspect.NoneType():
            return "null"
        case inspect.VarTupleType():
            return "a list"
        case _:
            return "a section"


def _wrong(document: Document, value: Any, allowed: str, key: Key) -> InputError:
    shown = repr(value)
    if isinstance(value, dict | list):
        shown = "a section" if isinstance(value, dict) else "a list"
    return InputError(f"{document.place(*key)}: {_dotted(key)} is {shown}; it must be {allowed}")


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)


def _section(key: Key) -> str:
    return f"section {_dotted(key)!r}" if key else "the top level"
