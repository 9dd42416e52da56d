"""A pytest plugin: networks and whole clusters as fixtures, for programs of your own.

Loaded by pytest wherever the package is installed; it costs nothing until a fixture is used.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testbed.pytest_plugin.cluster import PdCluster
    from testbed.pytest_plugin.network import Network

EXPERIMENT = "1p1d.yaml"
REPORT = pytest.StashKey[dict[str, pytest.TestReport]]()
SUMMARY = pytest.StashKey[list[tuple[str, str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the group "dualpath"."""
    group = parser.getgroup("dualpath", "DualPath testbed")
    require = {
        "dest": "dualpath_require", "choices": ["functional", "timing"], "default": "timing",
        "help": "which verdict a cluster's run must pass; functional for noisy, shared machines",
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
    config.stash[SUMMARY] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember how each phase of a test ended, for what its fixtures keep."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    item.stash.setdefault(REPORT, {})[report.when or ""] = report
    return report  # type: ignore[return-value]


@pytest.fixture
def fabric(request: pytest.FixtureRequest, tmp_path: Path) -> "Iterator[Network]":
    """The network of an experiment, without engines: hosts, shaped links, classes, counters."""
    from testbed.clusters.up import bring_up
    from testbed.pytest_plugin.keep import keep
    from testbed.pytest_plugin.network import Network

    name = cluster_name(request)
    with bring_up(_experiment(request), name, tmp_path / "dualpath", lambda _: None) as held:
        network = Network(held.cluster, held.folder)
        try:
            for link in _links_to_capture(request):
                network.capture(link)
            yield network
        finally:
            network.close()
            if _failed(request):
                keep(held.folder, _kept(request))


@pytest.fixture
def pd_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> "Iterator[PdCluster]":
    """A whole cluster: engines, storage, scheduler and agents, played to its end."""
    from testbed.pytest_plugin.cluster import PdCluster
    from testbed.pytest_plugin.keep import keep

    cluster = PdCluster(
        _experiment(request),
        cluster_name(request),
        tmp_path / "dualpath",
        request.config.getoption("dualpath_require"),
        _links_to_capture(request),
    )
    try:
        yield cluster
    finally:
        cluster.close()
        _tell(request, cluster)
        if _failed(request):
            keep(cluster.root, _kept(request))


def _tell(request: pytest.FixtureRequest, cluster: "PdCluster") -> None:
    """Verdicts into JUnit's properties and the step summary."""
    for policy, verdict in cluster.verdicts:
        words = f"functional {verdict.functional}, timing {verdict.timing}"
        request.node.user_properties.append((f"verdict of {policy}", words))
        for cause in verdict.causes:
            request.node.user_properties.append(("cause", cause))
        causes = "; ".join(verdict.causes)
        request.config.stash[SUMMARY].append((request.node.nodeid, f"{policy}: {words}", causes))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The step summary, in Markdown."""
    rows = session.config.stash.get(SUMMARY, [])
    target = session.config.getoption("--dualpath-summary", None)
    if not rows or not target or hasattr(session.config, "workerinput"):
        return
    lines = ["", "| test | verdict | causes |", "|---|---|---|"]
    lines += [f"| `{_cell(test)}` | {_cell(said)} | {_cell(why)} |" for test, said, why in rows]
    with Path(target).open("a", encoding="utf-8") as summary:
        summary.write("\n".join(lines) + "\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def cluster_name(request: pytest.FixtureRequest) -> str:
    """A name that no other test, process or user of this machine has."""
    from testbed.clusters.names import as_name

    return f"{as_name(request.node.name)[:40].rstrip('-.')}-{os.getpid()}-{os.urandom(3).hex()}"


def _experiment(request: pytest.FixtureRequest) -> Any:
    from testbed.spec import load_experiment

    marker = request.node.get_closest_marker("experiment")
    file = marker.args[0] if marker and marker.args else EXPERIMENT
    settings = [f"{key}={value}" for key, value in (marker.kwargs if marker else {}).items()]
    return load_experiment(_found(file, request.path.parent), settings)


def _found(file: str, beside: Path) -> Path:
    """A path as it is, one beside the test's file, or a packaged experiment."""
    import topologies

    packaged = Path(topologies.__file__).parent / file
    candidates = [Path(file), beside / file, packaged, packaged.with_suffix(".yaml")]
    return next((path for path in candidates if path.is_file()), Path(file))


def _links_to_capture(request: pytest.FixtureRequest) -> list[str]:
    return [str(link) for marker in request.node.iter_markers("capture") for link in marker.args]


def _failed(request: pytest.FixtureRequest) -> bool:
    reports = request.node.stash.get(REPORT, {})
    return any(report.failed for report in reports.values())


def _kept(request: pytest.FixtureRequest) -> Path:
    from testbed.clusters.names import as_name

    return Path(request.config.getoption("--dualpath-keep")) / as_name(request.node.nodeid)
