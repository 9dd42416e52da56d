"""Grid files: the axes of a sweep, and their product as points that are all known to be valid."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import xxhash

from scheduler.errors import DualPathError
from testbed.content import run_digest, workload_digest
from testbed.errors import InputError
from testbed.policies import Chosen, choose
from testbed.session import VIRTUAL, require_playable
from testbed.spec import PACKAGED, Experiment, experiment_file, is_file, load_experiment
from testbed.workload import Workload, build_workload
from testbed.yamlfile import Document, convert, read_yaml

MOST_POINTS = 10_000
POLICIES = ("basic", "dualpath")
SHAPE = re.compile(r"([0-9]{1,4})P([0-9]{1,4})D", re.IGNORECASE)
NODES = ("cluster.prefill_nodes", "cluster.decode_nodes")
AGENTS, APS, SEED, TIME_SCALE = "workload.agents", "workload.aps", "seed", "scale.time_scale"

AXES = {"shapes": NODES, "loads": (AGENTS,), "aps": (APS,), "seeds": (SEED,)}

Key = tuple[str, ...]  # of the grid file
Scalar = bool | int | float | str | None


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A grid file: each list is an axis, and what is left out stays as the experiment says.

    `shapes` are P/D in nodes (1P2D), `loads` numbers of agents, `aps` agents that arrive a target
    second; `set` has an axis for any other key of an experiment.
    """

    experiment: str
    policies: tuple[str, ...] = POLICIES
    shapes: tuple[str, ...] = ()
    loads: tuple[int, ...] = ()
    aps: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    set: dict[str, tuple[Scalar, ...]] = {}


class Axis(NamedTuple):
    """A name, and for each of its values the keys that it sets and where it was written."""

    name: str
    keys: tuple[str, ...]
    values: tuple[tuple[Scalar, ...], ...]
    places: tuple[str, ...]


class Point(NamedTuple):
    """An experiment under a policy; `digest` is of all that its result depends on.

    `values` are those of the keys that the grid's `set` names.
    """

    experiment: Experiment
    policy: Chosen
    values: dict[str, Scalar]
    digest: str

    @property
    def shape(self) -> str:
        """P/D in nodes."""
        cluster = self.experiment.cluster
        return f"{cluster.prefill_nodes}P{cluster.decode_nodes}D"


def read_points(
    path: Path, settings: Sequence[str], world: str, progress: Callable[[int, int], None]
) -> list[Point]:
    """Every point of a grid file, all valid; `settings` are overrides of all points.

    Raises InputError naming the file, and the line and key of an axis or the values of the point.
    """
    document = read_yaml(path)
    grid = convert(document, Grid)
    axes = list(_axes(document, grid))
    fixed = [*settings, *([f"{TIME_SCALE}=1.0"] if world == VIRTUAL else [])]
    _require_no_key_twice(axes, fixed)
    policies = _policies(document, grid, path.parent)
    planned = prod(len(axis.values) for axis in axes)
    if planned * len(policies) > MOST_POINTS:
        raise InputError(
            f"{path}: has {planned * len(policies):,} points; it must have at most "
            f"{MOST_POINTS:,}: leave out values or split it"
        )
    experiment = _experiment_path(document, grid, path)
    check = _Checker(path, experiment, fixed, world)
    points: list[Point] = []
    for number, choice in enumerate(product(*(range(len(axis.values)) for axis in axes))):
        points += check.points(axes, choice, policies)
        progress(number + 1, planned)
    return points


def _axes(document: Document, grid: Grid) -> Iterator[Axis]:
    own = {key: name for name, keys in AXES.items() for key in keys}
    for key in grid.set:
        if key != key.strip():
            raise InputError(f"{document.place('set', key)}: {key!r} has blanks around it")
        if key in own:
            raise InputError(
                f"{document.place('set', key)}: {key} has an axis of its own; write it as "
                f"{own[key]}"
            )
    lists: dict[Key, tuple[Scalar, ...]] = {
        ("shapes",): tuple(text.upper() for text in grid.shapes),
        **{("set", key): values for key, values in grid.set.items()},
        ("loads",): grid.loads,
        ("aps",): grid.aps,
        ("seeds",): grid.seeds,
    }
    for where, values in lists.items():
        if where not in document.places:
            continue
        _require_different(document, where, values)
        places = tuple(document.place(*where, number) for number in range(len(values)))
        parts = tuple(
            _nodes(str(value), place) if where == ("shapes",) else (value,)
            for value, place in zip(values, places, strict=True)
        )
        yield Axis(".".join(where), AXES.get(where[0], where[1:]), parts, places)


def _require_different(
    document: Document, where: tuple[str, ...], values: Sequence[Scalar]
) -> None:
    name = ".".join(where)
    if not values:
        raise InputError(
            f"{document.place(*where)}: {name} has no values; name some, or leave it out"
        )
    seen: list[str] = []
    for number, value in enumerate(values):
        if (text := json.dumps(value)) in seen:
            raise InputError(
                f"{document.place(*where, number)}: {name} has {value!r} twice; leave one out"
            )
        seen.append(text)


def _nodes(text: str, place: str) -> tuple[int, int]:
    found = SHAPE.fullmatch(text)
    if found is None:
        raise InputError(f"{place}: shape {text!r} is not P/D in nodes; write such as 1P2D")
    return int(found[1]), int(found[2])


def _policies(document: Document, grid: Grid, beside: Path) -> tuple[Chosen, ...]:
    """Each with its file, which is looked for beside the grid."""
    _require_different(document, ("policies",), grid.policies)
    for number, word in enumerate(grid.policies):
        try:
            choose([word], beside)
        except InputError as error:
            raise InputError(f"{document.place('policies', number)}: {error}") from error
    return choose(grid.policies, beside)


def _require_no_key_twice(axes: Sequence[Axis], fixed: Sequence[str]) -> None:
    owners = {key: axis for axis in axes for key in axis.keys}
    for assignment in fixed:
        key = assignment.partition("=")[0].strip()
        if key == TIME_SCALE and key in owners:
            raise InputError(
                f"{owners[key].places[0]}: {key} says nothing in the virtual world; leave it out"
            )
        if key in owners:
            raise InputError(
                f"--set {assignment}: {key} is set by the grid's {owners[key].name}; change it "
                "there"
            )


def _experiment_path(document: Document, grid: Grid, path: Path) -> Path:
    """The file beside the grid, or else the packaged one of that name."""
    found = experiment_file(Path(grid.experiment), path.parent)
    if is_file(found):
        return found
    packaged = ", ".join(sorted(file.name for file in PACKAGED.glob("*.yaml")))
    raise InputError(
        f"{document.place('experiment')}: no experiment {grid.experiment!r} beside this file; "
        f"packaged are {packaged}"
    )


class _Checker:
    """Makes points, and complains of those that cannot be played."""

    def __init__(self, grid: Path, path: Path, fixed: Sequence[str], world: str) -> None:
        self._grid = grid
        self._path = path
        self._fixed = fixed
        self._world = world
        self._workloads: dict[str, tuple[Workload, str]] = {}

    def points(
        self, axes: Sequence[Axis], choice: Sequence[int], policies: Sequence[Chosen]
    ) -> Iterator[Point]:
        """The points at one choice of values, one a policy."""
        chosen = list(zip(axes, choice, strict=True))
        places = {
            f"{key}={json.dumps(value)}": axis.places[index]
            for axis, index in chosen
            for key, value in zip(axis.keys, axis.values[index], strict=True)
        }
        values = {axis.keys[0]: axis.values[i][0] for axis, i in chosen if axis.name[:4] == "set."}
        try:
            experiment = load_experiment(self._path, [*self._fixed, *places])
            workload, digest = self._workload(experiment)
            require_playable(experiment, workload, policies, self._world)
        except DualPathError as error:
            raise InputError(self._complaint(str(error), places)) from error
        for policy in policies:
            run = run_digest(self._world, experiment, digest, policy)
            key = xxhash.xxh3_128_hexdigest(f"{run} {policy.name}".encode())
            yield Point(experiment, policy, values, key)

    def _workload(self, experiment: Experiment) -> tuple[Workload, str]:
        """The last workload is kept: neighbours in a grid often have the same."""
        key = f"{experiment.workload!r} {experiment.seed}"
        if key not in self._workloads:
            workload = build_workload(experiment.workload, experiment.seed)
            self._workloads = {key: (workload, workload_digest(workload))}
        return self._workloads[key]

    def _complaint(self, text: str, places: Mapping[str, str]) -> str:
        """With the line of the grid in place of the override that it became."""
        for assignment, place in places.items():
            if text.startswith(f"--set {assignment}: "):
                return text.replace(f"--set {assignment}", place, 1)
        if text.startswith("--set ") or not places:
            return text
        return f"{self._grid}: at {', '.join(places)}: {text}"


def columns(point: Point) -> dict[str, Any]:
    """What says which point a line of the table is; loads in agents and agents/s."""
    experiment = point.experiment
    cluster = experiment.cluster
    return {
        "shape": point.shape,
        "prefill_nodes": cluster.prefill_nodes,
        "decode_nodes": cluster.decode_nodes,
        "policy": point.policy.name,
        "agents": experiment.workload.agents,
        "aps": experiment.workload.aps,
        "seed": experiment.seed,
        **point.values,
    }
