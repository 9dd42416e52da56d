"""Experiment files: what a run is, in target units, typed and bounded.

`load_experiment` reads one; nothing is created before all of it is valid.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml
from msgspec import Meta

import topologies
from testbed.errors import InputError
from testbed.spec_profiles import Delay, Delays, HardwareProfile, ModelProfile, Share
from testbed.spec_workload import ReplayWorkload, WekaWorkload, WorkloadSpec
from testbed.yamlfile import Document, convert, nearest, read_yaml
from topologies.shape import MAX_NODES, MAX_STORAGE_HOSTS

BLOCK_TOKENS = 64  # a KV block of the paper's example (appendix A.5), and of the traces
LARGEST_SEED = 2**32 - 1
PROFILES = Path(__file__).parent / "profiles"
PACKAGED = Path(topologies.__file__).parent

Nodes = Annotated[int, Meta(ge=1, le=MAX_NODES)]


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """xPyD in nodes; `folded`: one process stands for a node's GPUs and keeps their lanes."""

    prefill_nodes: Nodes
    decode_nodes: Nodes
    gpus_per_node: Annotated[int, Meta(ge=1, le=8)] = 8
    folded: bool = True
    storage_hosts: Annotated[int, Meta(ge=1, le=MAX_STORAGE_HOSTS)] = 1
    group_nodes: Nodes = 1

    @property
    def prefill(self) -> tuple[str, ...]:
        """Names of the prefill nodes."""
        return tuple(f"pe{number}" for number in range(self.prefill_nodes))

    @property
    def decode(self) -> tuple[str, ...]:
        """Names of the decode nodes."""
        return tuple(f"de{number}" for number in range(self.decode_nodes))


class ScaleSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One emulated token stands for `token_scale`; a second lasts `time_scale` real ones."""

    token_scale: Literal[1, 2, 4, 8, 16, 32, 64] = 64
    time_scale: Annotated[float, Meta(ge=0.01, le=1000)] = 2.0
    layers: Annotated[int, Meta(ge=1, le=64)] = 4


class EngineKnobs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Knobs of engines and policies; `prefill_gpu_pool_bytes` is HBM that each GPU keeps for KV.

    `kv_samples` is the share of turns whose KV is compared with the reference's. With `real_kv`
    memories hold KV in the virtual world too, small but real; in the emulated one they always do.
    At each time of `scheduler_restart_s` the scheduler loses all that it knows.
    A scheduler in another process has `scheduler_deadline_s` real seconds for an answer.
    """

    read_ahead: Annotated[int, Meta(ge=1, le=10_000)] = 256
    reads_in_flight: Annotated[int, Meta(ge=1, le=1000)] = 10
    prefill_quota_s: Annotated[float, Meta(gt=0, le=60)] = 0.3
    max_forward_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 8192
    fetch_period_s: Annotated[float, Meta(ge=1e-3, le=10)] = 0.05
    prefill_gpu_pool_bytes: Annotated[float, Meta(gt=0, le=1e15)] = 20e9
    deadline_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    kv_samples: Annotated[float, Meta(ge=0, le=1)] = 0.02
    verify_digests: bool = True
    real_kv: bool = False
    scheduler_restart_s: tuple[Annotated[float, Meta(gt=0, le=1e9)], ...] = ()
    scheduler_deadline_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one node has otherwise; None is what all have.

    `snic_share` takes the place of the hardware profile's, a delay that of `delays`.
    """

    snic_share: Share | None = None
    snic_delay_s: Delay | None = None
    cnic_delay_s: Delay | None = None
    pcie_delay_s: Delay | None = None
    uplink_delay_s: Delay | None = None

    @property
    def delays_s(self) -> dict[str, float]:
        """The delays that this node has otherwise, by kind of link."""
        found = {
            "snic": self.snic_delay_s,
            "cnic": self.cnic_delay_s,
            "pcie": self.pcie_delay_s,
            "uplink": self.uplink_delay_s,
        }
        return {nic: delay_s for nic, delay_s in found.items() if delay_s is not None}


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole experiment; profiles are resolved into it, so it stands for itself."""

    cluster: Cluster
    model: ModelProfile
    hardware: HardwareProfile
    workload: WorkloadSpec
    scale: ScaleSpec = ScaleSpec()
    engine: EngineKnobs = EngineKnobs()
    nodes: dict[str, NodeSpec] = {}
    delays: Delays = Delays()
    qos: bool = True
    seed: Annotated[int, Meta(ge=0, le=LARGEST_SEED)] = 0

    def snic_bytes_per_s(self, node: str) -> float:
        """A node's effective storage rate, in bytes/s."""
        override = self.nodes.get(node)
        if override is None or override.snic_share is None:
            return self.hardware.snic_bytes_per_s * self.hardware.snic_share
        return self.hardware.snic_bytes_per_s * override.snic_share

    @property
    def node_cnic_bytes_per_s(self) -> float:
        """All compute NICs of a node together: also the rate of its PCIe port and uplink."""
        return self.hardware.cnic_bytes_per_s * self.cluster.gpus_per_node

    def resolved(self) -> str:
        """The experiment as YAML that needs no other file; loading it gives an equal one."""
        return yaml.safe_dump(msgspec.to_builtins(self), sort_keys=False)


def experiment_file(path: Path, beside: Path = Path()) -> Path:
    """The file itself, or the packaged one of that name where there is no such file."""
    found, packaged = beside / path, PACKAGED / path.name
    named = path.parent.name in ("", PACKAGED.name)
    return packaged if named and not is_file(found) and is_file(packaged) else found


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file; `overrides` are `a.b=value`, applied before it is checked.

    Raises InputError naming file, line (or override), key, and what is allowed.
    """
    path = experiment_file(path)
    document = read_yaml(path)
    for assignment in overrides:
        if "." not in assignment.partition("=")[0]:
            document.set(assignment)
    for key, folder in (("model", "models"), ("hardware", "hardware")):
        _graft_profile(document, key, PROFILES / folder, path.parent)
    for assignment in overrides:
        if "." in assignment.partition("=")[0]:
            document.set(assignment)
    _forget_other_kind(document, overrides)
    experiment = convert(document, Experiment)
    _cross_check(document, experiment)
    named = experiment.workload
    if isinstance(named, WekaWorkload | ReplayWorkload) and named.trace:
        try:
            trace = str((path.parent / named.trace).resolve())
        except (OSError, ValueError, RuntimeError) as error:  # NUL in the name, links in a circle
            raise InputError(
                f"{document.place('workload', 'trace')}: {named.trace!r} is no file's name: {error}"
            ) from error
        workload = msgspec.structs.replace(named, trace=trace)
        return msgspec.structs.replace(experiment, workload=workload)
    return experiment


def _graft_profile(document: Document, key: str, folder: Path, beside: Path) -> None:
    """Put the profile that a section only names in its place."""
    name: Any = document.data.get(key)
    if not isinstance(name, str):
        return
    packaged = {file.stem: file for file in folder.glob("*.yaml")}
    path = packaged.get(name, beside / name)
    if not is_file(path):
        raise InputError(
            f"{document.place(key)}: {key} profile {_readable(name)} is neither packaged nor a "
            f"file beside the experiment; {nearest(name, list(packaged), 'packaged')}"
        )
    document.graft(key, read_yaml(path))


def is_file(path: Path) -> bool:
    """Whether there is such a file."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or one that no file can have
        return False


def _readable(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def _forget_other_kind(document: Document, overrides: Sequence[str]) -> None:
    """A kind of workload chosen by an override keeps of the file only the keys that it knows."""
    section = document.data.get("workload")
    if not isinstance(section, dict) or "workload.kind" not in {
        assignment.partition("=")[0].strip() for assignment in overrides
    }:
        return
    tags = {kind.__struct_config__.tag: kind for kind in get_args(WorkloadSpec)}
    if (kind := tags.get(section.get("kind"))) is None:
        return
    for key in set(section) - {"kind", *kind.__struct_fields__}:
        if not document.place("workload", key).startswith("--set"):
            del section[key]


def _cross_check(document: Document, experiment: Experiment) -> None:
    """What no single key can tell."""
    known = [*experiment.cluster.prefill, *experiment.cluster.decode]
    for node, otherwise in experiment.nodes.items():
        if node not in known:
            raise InputError(
                f"{document.place('nodes', node)}: no node {node!r} in this cluster; "
                f"{nearest(node, known, 'node')}"
            )
        if otherwise == NodeSpec():
            raise InputError(
                f"{document.place('nodes', node)}: nothing is said of node {node!r}; give it "
                f"{' or '.join(NodeSpec.__struct_fields__)}, or leave it out"
            )
    pool = experiment.engine.prefill_gpu_pool_bytes
    hbm = experiment.hardware.hbm_kv_bytes_per_gpu
    if pool > hbm:
        raise InputError(
            f"{document.place('engine', 'prefill_gpu_pool_bytes')}: "
            f"engine.prefill_gpu_pool_bytes is {pool:g} (by default 2e10); "
            f"it must be at most {hbm:g}, a GPU's HBM for KV"
        )
