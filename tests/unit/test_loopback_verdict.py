"""What a run on loopback counts, what it claims, and what it does not."""

import importlib.util
import io
import re
import tomllib
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console
from test_metrics import BOUND, run_data
from test_picture import comparison

from engines.seams.transport import TrafficClass
from engines.tally import PeerTally, Tally
from testbed import session
from testbed.cli.main import main
from testbed.cli.options import Asked, experiment_options, fabric_of
from testbed.errors import EnvironmentUnfit, InputError
from testbed.policies import choose
from testbed.results.ledger import PortLine
from testbed.results.metrics import measure, port_lines
from testbed.results.picture import show
from testbed.results.rundata import RunData
from testbed.results.schema import Comparison
from testbed.results.verdict import UNSHAPED, judge
from testbed.spec import load_experiment
from testbed.workload import build_workload
from testbed.worlds import account, virtual
from testbed.worlds.account import HostAccount
from testbed.worlds.emulated import EXTRAS, PACKAGES, require_packages
from testbed.worlds.looks import Looks
from testbed.worlds.loopback import LoopbackNetwork
from testbed.worlds.plan import LOOPBACK, NAMESPACES, LabPlan, on_loopback
from testbed.worlds.reserve import Reservation
from topologies.shape import ClusterShape

FILE = Path(__file__).parents[2] / "topologies" / "1p1d.yaml"
KV, MODEL, CTRL = TrafficClass.KV, TrafficClass.MODEL, TrafficClass.CTRL


def network(folder: Path, shape: ClusterShape) -> LoopbackNetwork:
    directory: dict[str, dict[str, str]] = {}
    for nic in shape.nics():
        directory.setdefault(nic.host, {})[nic.network] = f"127.9.0.1:{10_240}"
    return LoopbackNetwork(shape, Reservation(directory, ()), folder)


def ended(folder: Path, host: str, *moved: tuple[str, TrafficClass, Tally]) -> None:
    tallies = [PeerTally(*one) for one in moved]
    account.write(folder, HostAccount(host, "X", 0.0, 0.0, 0, tallies=tallies))


def counted(found: LoopbackNetwork, nic: str, way: str) -> tuple[int, int, int]:
    """Bytes on a port in all classes, KV's payload, and MODEL's bytes."""
    host, _, name = nic.partition(":")
    looks = Looks(judge=False)
    looks.take(found, frozenset(), 0.0)
    samples = looks.end(found, 0.0, 0.0, "none")
    port = next(p for p in samples.samples[0].ports if (p.host, p.nic) == (host, name))
    classes = samples.class_bytes.get(f"{nic}{'>' if way == 'tx' else '<'}", {})
    total = port.tx_payload_bytes if way == "tx" else port.rx_payload_bytes
    return total, classes.get("1:20", 0), classes.get("1:10", 0)


def test_each_side_of_a_path_carries_what_its_own_host_counted(tmp_path: Path) -> None:
    found = network(tmp_path, ClusterShape(1, 1))
    links = [*ClusterShape(1, 1).data_links()]
    assert all(counted(found, ":".join(link), "tx") == (0, 0, 0) for link in links)
    ended(
        tmp_path,
        "pe0-gpu",
        ("de0-buf", KV, Tally(1000, 1100, 0, 60)),
        ("pe0-buf", KV, Tally(0, 50, 300, 330)),
        ("sched", CTRL, Tally(0, 77, 0, 88)),
    )
    # The receiver missed ten bytes: nothing may hide that.
    ended(tmp_path, "de0-buf", ("pe0-gpu", KV, Tally(0, 60, 990, 1090)))
    ended(tmp_path, "pe0-buf", ("pe0-gpu", KV, Tally(300, 330, 0, 50)))
    ended(tmp_path, "de0-gpu", ("pe0-gpu", MODEL, Tally(0, 21, 0, 0)))
    assert counted(found, "pe0-gpu:cnic", "tx") == (1150, 1000, 0)
    assert counted(found, "pe0-gpu:cnic", "rx") == (390, 300, 0)
    assert counted(found, "pe0:uplink", "tx") == (1100, 1000, 0)
    assert counted(found, "de0:uplink", "rx") == (1090, 990, 0)
    assert counted(found, "de0-buf:pcie", "rx") == (1090, 990, 0)
    assert counted(found, "pe0-buf:pcie", "tx") == (330, 300, 0)
    assert counted(found, "de0:uplink", "tx") == (81, 0, 21)
    assert counted(found, "pe0-gpu:mgmt", "tx") == (77, 0, 0)
    assert counted(found, "pe0-gpu:mgmt", "rx") == (88, 0, 0)
    assert counted(found, "store0:snic", "tx") == (0, 0, 0)


def test_a_byte_too_few_fails_and_times_are_never_claimed() -> None:
    run = run_data()
    result = measure(run, lambda *_: BOUND, 1)
    exact = [PortLine(x.port, x.expected_bytes, x.expected_bytes) for x in port_lines(run)]
    short = [
        *exact[1:],
        msgspec.structs.replace(exact[0], counted_bytes=exact[0].counted_bytes - 1),
    ]
    run.samples.class_bytes.clear()
    whole = msgspec.structs.replace(result, ledger=exact)
    lacking = msgspec.structs.replace(result, ledger=short)
    assert judge(run, lacking).functional == "passed"  # a kernel's counters hold frames as well
    run.plan = on_loopback(run.plan)
    found = judge(run, whole)
    assert (found.functional, found.timing, found.causes) == ("passed", "inconclusive", (UNSHAPED,))
    found = judge(run, lacking)
    assert found.functional == "failed"
    assert len(found.causes) == 2 and exact[0].port in found.causes[0]


def test_the_picture_has_what_is_right_and_no_speed() -> None:
    def shown(fabric: str, columns: int) -> str:
        out = io.StringIO()
        found = msgspec.structs.replace(comparison(), fabric=fabric, speedup={})
        if fabric == NAMESPACES:
            found = msgspec.structs.replace(found, speedup=comparison().speedup)
        show(found, Console(file=out, width=columns, color_system=None))
        return out.getvalue()

    timed = ("speed-up", "turns/s", "TTFT", "JCT", "storage NIC", "of that limit", "CPU a turn")
    for columns in (80, 140):
        loopback, usual = shown(LOOPBACK, columns), shown(NAMESPACES, columns)
        for word in timed:
            assert word in usual
            assert f"│ {word}" not in loopback
        for word in ("turns done / failed", "tokens right", "KV read on PE / DE side", "75% / 25%"):
            assert word in loopback and word in usual
        assert "on loopback nothing" in " ".join(loopback.replace("│", " ").split())
        assert "…" not in loopback


@pytest.mark.parametrize("fabric", [NAMESPACES, LOOPBACK])
def test_the_virtual_world_is_made_of_no_fabric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fabric: str
) -> None:
    runs = tmp_path / "runs"
    words = ["run", str(FILE), "--world", "virtual", "--fabric", fabric, "--runs", str(runs)]
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [f"testbed: --fabric {fabric} says nothing in the virtual world; leave it out"]
    assert not runs.exists()
    with pytest.raises(InputError):
        fabric_of("virtual", fabric)
    assert fabric_of("virtual", None) == fabric_of("emulated", None) == NAMESPACES


def test_intervals_of_speed_ups_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    words = ["compare", str(FILE), "--fabric", "loopback", "--seeds", "3", "--runs", str(runs)]
    assert main(words) == 2
    assert "--seeds tells speed-ups, which loopback cannot" in capsys.readouterr().err
    assert not runs.exists()


@pytest.mark.parametrize(("words", "require"), [
    (["--fabric", "loopback"], "functional"),
    (["--fabric", "loopback", "--require", "timing"], "timing"),
    (["--fabric", "namespaces"], "timing"),
    ([], "timing"),
])  # fmt: skip
def test_on_loopback_only_what_can_be_told_is_asked_for(words: list[str], require: str) -> None:
    found: list[Asked] = []

    @click.command()
    @experiment_options(require="timing")
    def command(asked: Asked) -> None:
        found.append(asked)

    ended = CliRunner().invoke(command, ["x.yaml", *words])
    assert ended.exit_code == 0, ended.output
    assert [(asked.require, asked.fabric) for asked in found] == [
        (require, "loopback" if "loopback" in words else "namespaces")
    ]


def test_a_finished_run_stands_for_its_own_fabric_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[str] = []

    def world(plan: LabPlan, progress: virtual.Progress) -> RunData:
        played.append(plan.fabric)
        return virtual.run(plan, progress)

    monkeypatch.setitem(session.WORLDS, session.EMULATED, world)
    settings = ["workload.agents=6", "workload.turns=1", "workload.openings=2"]
    experiment = load_experiment(FILE, [*settings, "scale.time_scale=1"])
    workload = build_workload(experiment.workload, 0)

    def play(fabric: str) -> Comparison:
        return session.play(
            experiment, "x", workload, choose(["basic"]), tmp_path, lambda *_: None,
            session.EMULATED, False, fabric,
        )  # fmt: skip

    first = play(LOOPBACK)
    assert (first.fabric, first.speedup, first.reused) == (LOOPBACK, {}, {})
    assert first.verdict.functional == "passed" and UNSHAPED in first.verdict.causes[0]
    other = play(NAMESPACES)
    assert (other.fabric, other.speedup, other.reused) == (NAMESPACES, {"basic": 1.0}, {})
    again = play(LOOPBACK)
    assert again.reused == {"basic": f"{first.folder}/basic"}
    assert again.fabric == LOOPBACK and again.verdict == first.verdict
    assert played == [LOOPBACK, NAMESPACES]


def test_what_pip_is_told_to_install_is_what_is_asked_for() -> None:
    extras = tomllib.loads((FILE.parents[1] / "pyproject.toml").read_text())["project"]
    for fabric, packages in PACKAGES.items():
        listed = extras["optional-dependencies"][EXTRAS[fabric]]
        names = {re.match(r"\w+", line)[0] for line in listed}
        assert names - {"scapy"} == set(packages)  # no run needs scapy; its layer is for readers


def test_only_namespaces_ask_for_what_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_networks(name: str) -> object:
        return None if name in ("mininet", "pyroute2") else there(name)

    there = importlib.util.find_spec
    monkeypatch.setattr("testbed.worlds.emulated.find_spec", without_networks)
    require_packages(LOOPBACK)
    with pytest.raises(EnvironmentUnfit, match="needs mininet, pyroute2"):
        require_packages(NAMESPACES)
