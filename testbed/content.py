"""What a run's result depends on, as one digest: two runs of one digest have the same result."""

from functools import cache
from pathlib import Path

import msgspec
import xxhash

import topologies
from testbed.imports import CODE
from testbed.policies import Chosen
from testbed.spec import Experiment
from testbed.workload import Workload

PROJECT = Path(str(topologies.__file__)).parent.parent


@cache
def code_digest() -> str:
    """Of the sources of this project: a changed policy gives other results."""
    found = xxhash.xxh3_128()
    for package in CODE:
        for file in sorted((PROJECT / package).rglob("*.py")):
            found.update(file.read_bytes())
    return found.hexdigest()


def workload_digest(workload: Workload) -> str:
    """Of every turn, wherever it was read from."""
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(workload))


def run_digest(world: str, experiment: Experiment, workload: str, policy: Chosen) -> str:
    """Of one policy's run in a world; `workload` is the digest of the experiment's."""
    words = (world, code_digest(), experiment, workload, policy.digest)
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(words))
