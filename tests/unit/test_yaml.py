"""YAML files into structs: places, bounds, and messages that help."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from testbed.errors import InputError
from testbed.yamlfile import Document, convert, nearest, read_yaml


class Inner(msgspec.Struct, kw_only=True):
    rate: Annotated[float, Meta(gt=0, le=100)]
    count: Annotated[int, Meta(ge=1, le=8)] = 1
    pick: Literal[1, 2, 4] = 1
    on: bool = True
    note: str | None = None


class Cat(msgspec.Struct, frozen=True, tag_field="kind", tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, tag_field="kind", tag="dog"):
    tricks: int


class Outer(msgspec.Struct, kw_only=True):
    inner: Inner
    pet: Cat | Dog = Cat()
    many: dict[str, Inner] = {}


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    document = read_yaml(path)
    for assignment in overrides:
        document.set(assignment)
    return convert(document, Outer)


def complaint(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_values_arrive_typed(tmp_path: Path) -> None:
    outer = load(
        tmp_path,
        "inner:\n  rate: 5e-1\n  count: 3\n  on: false\n  note: 'true'\n"
        "pet: {kind: dog, tricks: 2}\nmany:\n  a: {rate: 2}\n",
    )
    assert outer.inner == Inner(rate=0.5, count=3, on=False, note="true")
    assert outer.pet == Dog(tricks=2)
    assert outer.many == {"a": Inner(rate=2.0)}


@pytest.mark.parametrize(("text", "value"), [("80e9", 80e9), ("1.", 1.0), (".5", 0.5), ("3", 3.0)])
def test_numbers_follow_yaml_1_2(tmp_path: Path, text: str, value: float) -> None:
    path = tmp_path / "n.yaml"
    path.write_text(f"n: {text}\nword: on\n")
    data = read_yaml(path).data
    assert data == {"n": value, "word": "on"}


def test_unknown_key_names_line_section_and_nearest(tmp_path: Path) -> None:
    assert complaint(tmp_path, "inner:\n  rate: 1\n  cuont: 2\n") == (
        "x.yaml:3: unknown key 'cuont' in section 'inner'; nearest known: 'count'"
    )


def test_unknown_key_far_from_all_lists_them(tmp_path: Path) -> None:
    assert complaint(tmp_path, "inner: {rate: 1}\nzzz: 2\n") == (
        "x.yaml:2: unknown key 'zzz' in the top level; known: 'inner', 'many', 'pet'"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rate: -1", "inner.rate is -1; it must be a number above 0 and at most 100"),
        ("rate: fast", "inner.rate is 'fast'; it must be a number above 0 and at most 100"),
        ("rate: true", "inner.rate is True; it must be a number above 0 and at most 100"),
        ("rate:", "inner.rate is None; it must be a number above 0 and at most 100"),
        ("count: 0", "inner.count is 0; it must be a whole number at least 1 and at most 8"),
        ("count: 1.5", "inner.count is 1.5; it must be a whole number at least 1 and at most 8"),
        ("pick: 3", "inner.pick is 3; it must be one of 1, 2, 4"),
        ("on: yes", "inner.on is 'yes'; it must be true or false"),
        ("note: 7", "inner.note is 7; it must be a text"),
        ("note: {a: 1}", "inner.note is a section; it must be a text"),
    ],
)
def test_wrong_values_name_line_key_and_what_is_allowed(
    tmp_path: Path, line: str, message: str
) -> None:
    rest = "" if line.startswith("rate") else "\n  rate: 1"
    assert complaint(tmp_path, f"# a comment\ninner:\n  {line}{rest}\n") == f"x.yaml:3: {message}"


def test_missing_key_names_the_section_and_what_it_takes(tmp_path: Path) -> None:
    assert complaint(tmp_path, "pet: {kind: cat}\ninner:\n  count: 2\n") == (
        "x.yaml:2: key 'rate' is missing in section 'inner'; "
        "give it a number above 0 and at most 100"
    )


def test_section_in_place_of_a_value_and_the_reverse(tmp_path: Path) -> None:
    assert "inner is 3; it must be a section" in complaint(tmp_path, "inner: 3\n")
    assert "many is 3; it must be a section" in complaint(tmp_path, "inner: {rate: 1}\nmany: 3\n")


def test_wrong_values_inside_named_sections_keep_their_line(tmp_path: Path) -> None:
    text = "inner: {rate: 1}\nmany:\n  a:\n    rate: 1\n  b:\n    rate: 101\n"
    assert complaint(tmp_path, text).startswith("x.yaml:6: many.b.rate is 101;")


class Lists(msgspec.Struct):
    counts: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    any: dict[str, tuple[bool | int | float | str | None, ...]] = {}


def test_lists_and_plain_values_of_several_kinds(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("counts: [3, 1]\nany: {a: [true, 2, 0.5, x, null], b: []}\n")
    found = convert(read_yaml(path), Lists)
    assert found == Lists((3, 1), {"a": (True, 2, 0.5, "x", None), "b": ()})
    assert [type(value) for value in found.any["a"][:3]] == [bool, int, float]


@pytest.mark.parametrize(("text", "said"), [
    ("counts: 3", "x.yaml:1: counts is 3; it must be a list"),
    ("counts:\n- 3\n- 0", "x.yaml:3: counts.1 is 0; it must be a whole number at least 1"),
    ("any: {a: [[1]]}", "x.yaml:1: any.a.0 is a list; it must be true or false or a whole number"),
    ("any: {a: [{b: 1}]}", "x.yaml:1: any.a.0 is a section; it must be "),
    ("any: [1]", "x.yaml:1: any is a list; it must be a section"),
])  # fmt: skip
def test_wrong_lists_name_their_item(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        convert(read_yaml(path), Lists)
    assert str(raised.value).startswith(f"{tmp_path}/{said}")


def test_unknown_and_missing_kind(tmp_path: Path) -> None:
    assert complaint(tmp_path, "inner: {rate: 1}\npet:\n  kind: cot\n") == (
        "x.yaml:3: pet.kind cannot be 'cot'; nearest known: 'cat'"
    )
    assert complaint(tmp_path, "inner: {rate: 1}\npet:\n  lives: 1\n") == (
        "x.yaml:2: key 'kind' is missing in section 'pet'; give it cat or dog"
    )


def test_duplicate_keys_are_errors(tmp_path: Path) -> None:
    assert complaint(tmp_path, "inner:\n  rate: 1\n  rate: 2\n") == (
        "x.yaml:3: duplicate key 'rate' (first at x.yaml:2); remove one of them"
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("inner: {rate: 1\n", "x.yaml:2: not valid YAML"),
        ("inner:\n\trate: 1\n", "x.yaml:2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: not valid YAML"),
        ("", "x.yaml:1: holds no sections"),
        ("- 1\n", "x.yaml:1: holds no sections"),
        ("inner: &a {rate: 1}\nmany: {b: *a}\n", "x.yaml:1: aliases are not supported"),
        ("inner: {rate: 1e999}\n", "x.yaml:1: 1e999 is too large"),
        ("a: " + "[" * 40 + "]" * 40, "x.yaml:1: nested deeper"),
        ("a: " + "[" * 9000, "x.yaml:1: nested far too deep"),
    ],
)
def test_files_that_are_no_experiment(tmp_path: Path, text: str, start: str) -> None:
    assert complaint(tmp_path, text).startswith(start)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_yaml(binary)
    huge = tmp_path / "h.yaml"
    huge.write_bytes(b"#" * 1_000_001)
    with pytest.raises(InputError, match="is larger than"):
        read_yaml(huge)


def test_overrides_replace_values_and_make_sections(tmp_path: Path) -> None:
    outer = load(
        tmp_path,
        "inner: {rate: 1}\n",
        "inner.rate=2.5",
        "many.a.rate=3",
        "pet={kind: dog, tricks: 1}",
    )
    assert (outer.inner.rate, outer.many["a"].rate, outer.pet) == (2.5, 3.0, Dog(tricks=1))


def test_wrong_overrides_are_named_instead_of_a_line(tmp_path: Path) -> None:
    text = "inner: {rate: 1}\n"
    assert complaint(tmp_path, text, "inner.rate=-2").startswith(
        "--set inner.rate=-2: inner.rate is -2"
    )
    assert complaint(tmp_path, text, "inner.rat=2").startswith(
        "--set inner.rat=2: unknown key 'rat' in section 'inner'; nearest known: 'rate'"
    )
    assert complaint(tmp_path, text, "inner.rate").startswith("--set inner.rate: not an assignment")
    assert complaint(tmp_path, text, "inner.rate.x=1").startswith(
        "--set inner.rate.x=1: 'rate' is a value"
    )
    assert complaint(tmp_path, text, "inner={rate: [}").startswith(
        "--set inner={rate: [}: not valid"
    )


def test_place_of_an_unwritten_key_is_its_section(tmp_path: Path) -> None:
    document = Document("f.yaml")
    document.places = {("a",): "f.yaml:3"}
    assert document.place("a", "b") == "f.yaml:3"
    assert document.place("c") == "f.yaml"


def test_nearest_prefers_a_close_name() -> None:
    assert nearest("agnets", ["agents", "turns"]) == "nearest known: 'agents'"


def test_what_nothing_is_near_to_is_answered_with_all_names_or_with_a_few_of_many() -> None:
    assert nearest("nosuch", ["sched", "agents"], "host") == "host: 'agents', 'sched'"
    many = [
        f"s{side}{number}-eth{port}" for side in "pd" for number in range(4) for port in range(4)
    ]
    said = nearest("nosuch", many, "interface")
    assert said.startswith("interface: ") and said.endswith(" and 27 more")
    assert said.count("'") == 10
