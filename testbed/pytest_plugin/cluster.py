"""A whole cluster in a test's hands: played to its end, or changed while it goes on."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from testbed.clusters import names
from testbed.clusters.client import Cluster
from testbed.errors import InputError, RunFailed
from testbed.pytest_plugin.network import Network
from testbed.results.schema import Comparison, PolicyResult, Verdict
from testbed.results.verdict import INCONCLUSIVE, PASSED
from testbed.spec import Experiment

__tracebackhide__ = True  # pytest shows the test's line and the message

POLL_S = 0.05
START_S = 120.0


class PdCluster:
    """An experiment, ready to be played under any policy.

    `require` is the verdict that a run must pass: "functional" or "timing".
    """

    def __init__(
        self, experiment: Experiment, name: str, root: Path, require: str, captured: Sequence[str]
    ) -> None:
        self.experiment = experiment
        self.name = name
        self.root = root
        self.require = require
        self.verdicts: list[tuple[str, Verdict]] = []
        self.changes: list[str] = []  # of links, in words
        self._captured = captured
        self._running: Run | None = None

    def play(self, policy: str = "dualpath", *, timeout_s: float = 600.0) -> PolicyResult:
        """Play it to its end; AssertionError if it fails the verdict that is required."""
        with self.start(policy) as run:
            return run.result(timeout_s=timeout_s)

    @contextmanager
    def start(self, policy: str = "dualpath") -> "Iterator[Run]":
        """Start it, for a test that changes links meanwhile; ends with the with block."""
        run = Run(self, policy)
        self._running = run
        try:
            for link in self._captured:
                run.network.capture(link)
            yield run
        finally:
            run.close()

    def close(self) -> None:
        """End what still runs."""
        if self._running is not None:
            self._running.close()


class Run:
    """A run that goes on; `network` are its hosts and links once its agents have started."""

    def __init__(self, owner: PdCluster, policy: str) -> None:
        self._owner = owner
        self.policy = policy
        owner.root.mkdir(parents=True, exist_ok=True)
        # The session's folder, and with it the live cluster, is named after this file.
        file = owner.root / f"{owner.name}.yaml"
        file.write_text(owner.experiment.resolved())
        self._log = owner.root / "testbed.log"
        command = [
            sys.executable, "-m", "testbed.cli.main", "run", str(file), "--policy", policy,
            "--require", owner.require, "--runs", str(owner.root), "--json",
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """Its live network; waits for the start of the agents."""
        if self._network is None:
            cluster = self._await()
            self._network = Network(cluster, Path(cluster.look().about.folder))
        return self._network

    def _await(self) -> Cluster:
        deadline_s = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline_s:
            for name in names.live():
                if name.startswith(f"{self._owner.name}-") and _runs(name):
                    return Cluster(name)
            time.sleep(POLL_S)
        raise RunFailed(f"the run of {self.policy} did not start; see {self._log}")

    def result(self, *, timeout_s: float = 600.0) -> PolicyResult:
        """Wait for its end; AssertionError if it fails the verdict that is required."""
        try:
            out, _ = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"{self.policy} was not done within {timeout_s:g} s") from None
        code = self._process.returncode
        if not out:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise RunFailed(f"{self.policy} ended with code {code}: {(lines or ['?'])[-1]}")
        comparison = msgspec.json.decode(out, type=Comparison)
        verdict = comparison.verdict
        self._owner.verdicts.append((self.policy, verdict))
        causes = "; ".join(verdict.causes)
        assert verdict.functional == PASSED, f"functional {verdict.functional}: {causes}"
        if self._owner.require == "timing":
            assert verdict.timing != INCONCLUSIVE, f"timing {verdict.timing}: {causes}"
        return next(iter(comparison.policies.values()))

    def close(self) -> None:
        """End it, if it goes on."""
        if self._network is not None:
            self._network.close()
            self._owner.changes += self._network.changes
            self._network = None
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _runs(name: str) -> bool:
    try:
        return Cluster(name).look().phase == "running"
    except (RunFailed, InputError):
        return False  # it ends in this moment
