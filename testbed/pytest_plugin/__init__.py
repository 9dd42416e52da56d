"""A pytest plugin: networks and whole clusters as fixtures, for programs of your own.

Loaded by pytest wherever the package is installed; it costs nothing until a fixture is used.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.pytest_plugin.summary import CAUSE, KEPT, VERDICT, StepSummary
from testbed.pytest_plugin.summary import EXPERIMENT as OF_EXPERIMENT

if TYPE_CHECKING:
    from testbed.pytest_plugin.cluster import PdCluster
    from testbed.pytest_plugin.network import Network

EXPERIMENT = "1p1d.yaml"
REPORT = pytest.StashKey[dict[str, pytest.TestReport]]()
KEEPS = pytest.StashKey[Path]()  # where what a test leaves goes, if it fails


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the group "dualpath"."""
    group = parser.getgroup("dualpath", "DualPath testbed")
    require = {
        "dest": "dualpath_require", "choices": ["functional", "timing"], "default": "functional",
        "help": "which verdict a cluster's run must pass: functional (default), or timing too, for "
        "tests about times on a quiet machine",
    }  # fmt: skip
    try:
        group.addoption("--require", "--dualpath-require", **require)
    except ValueError:  # another plugin's word already
        group.addoption("--dualpath-require", **require)
    group.addoption(
        "--dualpath-keep", default="test-failures", metavar="FOLDER",
        help="where logs and captures of failed tests are kept (default: test-failures)",
    )  # fmt: skip
    group.addoption(
        "--dualpath-summary", default=os.environ.get("GITHUB_STEP_SUMMARY"), metavar="FILE",
        help="append a Markdown table of clusters and verdicts (default: $GITHUB_STEP_SUMMARY)",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Announce the markers."""
    config.addinivalue_line(
        "markers",
        "experiment(file, **settings): of `fabric` and `pd_cluster`; a packaged name "
        "or a path, and values that differ (keys with dots as in --set: "
        '**{"cluster.decode_nodes": 2})',
    )
    config.addinivalue_line(
        "markers", "capture(*links): record these interfaces (`pe0-buf:snic`) during the test"
    )
    target = config.getoption("dualpath_summary", None)
    if target and not hasattr(config, "workerinput"):
        config.pluginmanager.register(StepSummary(Path(target)), "dualpath-summary")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[None]:
    """Remember how each phase of a test ended, for what its fixtures keep, and say where."""
    if call.excinfo is not None and not item.config.getoption("fulltrace", False):
        _end_at_the_test(call.excinfo.value)
    report: pytest.TestReport = yield  # type: ignore[assignment]
    item.stash.setdefault(REPORT, {})[report.when or ""] = report
    if report.failed and report.when != "teardown" and KEEPS in item.stash:
        words = f"logs, captures and results are kept in {item.stash[KEEPS].absolute()}"
        report.sections.append(("DualPath testbed", words))
    return report  # type: ignore[return-value]


def _end_at_the_test(error: BaseException) -> None:
    """Leave out where the testbed raised an error of its own: its message is for whoever asked."""
    from testbed.errors import TestbedError

    before, entry = None, error.__traceback__
    while isinstance(error, TestbedError) and entry is not None:
        if str(entry.tb_frame.f_globals.get("__name__", "")).startswith("testbed."):
            if before is not None:
                before.tb_next = None
            return
        before, entry = entry, entry.tb_next


@contextmanager
def _plainly() -> Iterator[None]:
    """A fixture that cannot be had fails with the error's message alone."""
    from testbed.errors import TestbedError

    try:
        yield
    except TestbedError as error:
        refusal = f"{type(error).__name__}: {error}"
        raise pytest.fail.Exception(refusal, pytrace=False) from None


@pytest.fixture
def fabric(request: pytest.FixtureRequest, tmp_path: Path) -> "Iterator[Network]":
    """The network of an experiment, without engines: hosts, shaped links, classes, counters."""
    from testbed.clusters.up import bring_up
    from testbed.pytest_plugin.keep import keep
    from testbed.pytest_plugin.network import Network

    name = cluster_name(request)
    with _plainly():
        up = bring_up(_experiment(request), name, tmp_path / "dualpath", lambda _: None)
    with up as held:
        network = Network(held.cluster, held.folder)
        request.node.stash[KEEPS] = _kept(request)
        try:
            with _plainly():
                for link in _links_to_capture(request):
                    network.capture(link)
            yield network
        finally:
            _tell_of_network(request, network)
            network.close()
            if _failed(request):
                keep(held.folder, _kept(request))


@pytest.fixture
def pd_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> "Iterator[PdCluster]":
    """A whole cluster: engines, storage, scheduler and agents, played to its end."""
    from testbed.pytest_plugin.cluster import PdCluster
    from testbed.pytest_plugin.keep import keep

    with _plainly():
        cluster = PdCluster(
            _experiment(request),
            cluster_name(request),
            tmp_path / "dualpath",
            request.config.getoption("dualpath_require"),
            _links_to_capture(request),
        )
    request.node.stash[KEEPS] = _kept(request)
    try:
        yield cluster
    finally:
        cluster.close()
        _tell_of_cluster(request, cluster)
        if _failed(request):
            keep(cluster.root, _kept(request))


def _tell_of_network(request: pytest.FixtureRequest, network: "Network") -> None:
    """Links that were changed, and what those that were used carried, into JUnit's properties."""
    from testbed.errors import TestbedError

    told = request.node.user_properties
    told += [("link changed", change) for change in network.changes]
    try:
        for link, classes in network.ledger.carried().items():
            words = ", ".join(f"{payload} of {name}" for name, payload in classes.items())
            told.append((f"payload bytes of {link}", words))
    except TestbedError as error:  # the test brought it down
        told.append(("payload bytes", f"unknown: {error}"))


def _tell_of_cluster(request: pytest.FixtureRequest, cluster: "PdCluster") -> None:
    """Verdicts and changed links into JUnit's properties."""
    request.node.user_properties += [("link changed", change) for change in cluster.changes]
    for policy, verdict in cluster.verdicts:
        words = f"functional {verdict.functional}, timing {verdict.timing}"
        request.node.user_properties.append((f"{VERDICT}{policy}", words))
        request.node.user_properties += [(CAUSE, cause) for cause in verdict.causes]


def cluster_name(request: pytest.FixtureRequest) -> str:
    """A name that no other test, process or user of this machine has."""
    from testbed.clusters.names import as_name

    return f"{as_name(request.node.name)[:40].rstrip('-.')}-{os.getpid()}-{os.urandom(3).hex()}"


def _experiment(request: pytest.FixtureRequest) -> Any:
    from testbed.spec import load_experiment

    marker = request.node.get_closest_marker("experiment")
    file = marker.args[0] if marker and marker.args else EXPERIMENT
    settings = [f"{key}={value}" for key, value in (marker.kwargs if marker else {}).items()]
    request.node.user_properties.append((OF_EXPERIMENT, " ".join([str(file), *settings])))
    return load_experiment(_found(str(file), request.path.parent), settings)


def _found(file: str, beside: Path) -> Path:
    """A path as it is, one beside the test's file, or a packaged experiment."""
    from testbed.errors import InputError
    from testbed.spec import PACKAGED

    packaged = PACKAGED / file
    candidates = [Path(file), beside / file, packaged, packaged.with_suffix(".yaml")]
    for path in candidates:
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in PACKAGED.glob("*.yaml")))
    raise InputError(
        f"no experiment {file!r}: no such file in {Path.cwd()} or {beside}, and none of the "
        f"packaged ones: {names}"
    )


def _links_to_capture(request: pytest.FixtureRequest) -> list[str]:
    return [str(link) for marker in request.node.iter_markers("capture") for link in marker.args]


def _failed(request: pytest.FixtureRequest) -> bool:
    reports = request.node.stash.get(REPORT, {})
    failed = any(report.failed for report in reports.values())
    if failed:
        request.node.user_properties.append((KEPT, str(_kept(request))))
    return failed


def _kept(request: pytest.FixtureRequest) -> Path:
    from testbed.clusters.names import as_name

    test: str = request.node.nodeid
    # as_name cuts and changes letters: tests that differ in those must not share a folder.
    name = f"{as_name(test)}-{zlib.crc32(test.encode()):08x}"
    return Path(request.config.getoption("--dualpath-keep")) / name
