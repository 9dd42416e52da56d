"""Named clusters: what each verb does, what it refuses, and that a kill leaves nothing."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from residue import ROOT, Outside, wait_for

SMALL = str(ROOT / "topologies" / "1p1d.yaml")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    own = Outside(tmp_path)
    before = own.snapshot()
    yield own
    for name in own.names(_name(own, "")):
        own.call("down", name)
    wait_for(lambda: not own.processes(), "the end of every process")
    assert own.snapshot() == before


def _name(outside: Outside, word: str) -> str:
    return f"t-{outside.mark[-40:]}-{word}".replace("_", "-").lower()


def test_up_exec_status_and_down(outside: Outside) -> None:
    name = _name(outside, "life")
    came = outside.call("up", SMALL, "--name", name)
    assert came.returncode == 0, came.stderr
    view = json.loads(outside.call("status", name, "--json").stdout)[0]
    assert view["phase"] == "up"
    assert {host["name"] for host in view["hosts"]} >= {"pe0-gpu", "de0-buf", "store0"}
    store = next(host for host in view["hosts"] if host["name"] == "store0")
    inside = outside.call(
        "exec", "-c", name, "pe0-buf", "--", "ping", "-c", "1", store["nics"]["snic"]["ip"]
    )
    assert inside.returncode == 0, inside.stdout + inside.stderr
    assert outside.call("exec", "-c", name, "sched", "--", "sh", "-c", "exit 7").returncode == 7
    assert outside.call("exec", "-c", name, "sched", "--", "no-such-program").returncode == 127
    ports = outside.call("exec", "-c", name, "lab", "--", "ip", "-br", "link").stdout
    assert "pe0-buf-snic" in ports
    assert outside.call("down", name).returncode == 0
    assert not outside.names(name)


REFUSED = [
    (("exec", "-c", "{name}", "pe0-bux", "--", "true"), 2, "nearest host: 'pe0-buf'"),
    (("exec", "-c", "nobody", "pe0-buf", "--", "true"), 2, "nobody"),
    (("up", SMALL, "--name", "{name}"), 2, "is up already"),
    (("up", SMALL, "--name", "Bad Name"), 2, "small letters"),
    (("link", "set", "-c", "{name}", "pe0-buf:snix", "--rate", "1Mbps"), 2, "pe0-buf:snic"),
    (("link", "set", "-c", "{name}", "pe0-buf:snic", "--rate", "fast"), 2, "200Mbps"),
    (("link", "set", "-c", "{name}", "pe0-buf:snic"), 2, "nothing to change"),
    (("link", "set", "-c", "{name}", "pe0-buf:snic", "--rate", "900Gbps"), 4, "pe0-buf:snic"),
    (("down", "{name}-x"), 2, "nearest cluster"),
    (("qos", "mark", "-c", "{name}", "0", "KV"), 2, "port '0'"),
    (("qos", "mark", "-c", "{name}", "80", "GOLD"), 2, "MODEL"),
    (("shell", "-c", "{name}", "nohost"), 2, "nohost"),
    (("graph", "nobody"), 2, "nobody"),
    (("logs", "{name}", "--host", "nohost"), 2, "nohost"),
]


def test_bad_input_is_refused_in_one_line_and_changes_nothing(outside: Outside) -> None:
    name = _name(outside, "bad")
    assert outside.call("up", SMALL, "--name", name).returncode == 0
    before = json.loads(outside.call("link", "show", "-c", name, "--json").stdout)
    for words, code, named in REFUSED:
        ended = outside.call(*(word.format(name=name) for word in words))
        assert ended.returncode == code, (words, ended.stdout, ended.stderr)
        assert named in ended.stderr, (words, ended.stderr)
        assert len(ended.stderr.strip().splitlines()) == 1, (words, ended.stderr)
    assert json.loads(outside.call("link", "show", "-c", name, "--json").stdout) == before
    assert outside.call("down", name).returncode == 0


def test_one_value_of_a_link_changes_and_reset_brings_all_back(outside: Outside) -> None:
    name = _name(outside, "link")
    assert outside.call("up", SMALL, "--name", name).returncode == 0

    def shown() -> dict[str, dict[str, object]]:
        states = json.loads(outside.call("link", "show", "-c", name, "--json").stdout)
        return {f"{state['owner']}:{state['nic']}": state for state in states}

    nominal = shown()
    changed = outside.call("link", "set", "-c", name, "pe0-buf:snic", "--rate", "33Mbps")
    assert changed.returncode == 0, changed.stderr
    now = shown()
    assert now["pe0-buf:snic"]["payload_bps"] == 33e6
    assert {link for link in now if now[link] != nominal[link]} == {"pe0-buf:snic"}
    assert outside.call("link", "reset", "-c", name).returncode == 0
    assert shown() == nominal
    assert outside.call("qos", "off", "-c", name).returncode == 0
    assert json.loads(outside.call("qos", "show", "-c", name, "--json").stdout)["qos"] is False
    assert outside.call("down", name).returncode == 0


INSTANTS_S = (0.05, 0.3, 0.5, 0.7, 0.9, 1.3)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
def test_up_that_is_ended_at_any_step_leaves_all_or_nothing(
    outside: Outside, how: signal.Signals
) -> None:
    other = _name(outside, "other")
    assert outside.call("up", SMALL, "--name", other).returncode == 0
    for instant_s in INSTANTS_S:
        name = _name(outside, f"k{int(instant_s * 100)}")
        with outside.start("up", SMALL, "--name", name) as starting:
            try:
                starting.wait(instant_s)
            except subprocess.TimeoutExpired:
                starting.send_signal(how)
            starting.communicate(timeout=20)
        wait_for(lambda name=name: _settled(outside, name), f"all or nothing of {name}")
        if outside.names(name):
            assert outside.call("down", name).returncode == 0
        assert not outside.names(name)
        assert outside.call("exec", "-c", other, "store0", "--", "true").returncode == 0
    assert outside.call("up", SMALL, "--name", name).returncode == 0
    assert outside.call("down", name).returncode == 0
    assert outside.call("down", other).returncode == 0


def _settled(outside: Outside, name: str) -> bool:
    """Either there is no cluster of the name, or it is up and whole."""
    if not outside.names(name):
        return True
    told = outside.call("status", name, "--json")
    return told.returncode == 0 and json.loads(told.stdout)[0]["phase"] == "up"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_down_that_is_ended_can_be_called_again(outside: Outside, how: signal.Signals) -> None:
    for instant_s in (0.1, 0.2, 0.25, 0.3):
        name = _name(outside, f"d{int(instant_s * 100)}")
        assert outside.call("up", SMALL, "--name", name).returncode == 0
        with outside.start("down", name) as ending:
            try:
                ending.wait(instant_s)
            except subprocess.TimeoutExpired:
                ending.send_signal(how)
            ending.communicate(timeout=20)
        again = outside.call("down", name)
        assert again.returncode in (0, 2), again.stderr
        wait_for(lambda name=name: not outside.names(name), f"the end of {name}")


def test_the_end_of_pid_1_and_of_unshare_leaves_nothing(outside: Outside) -> None:
    for victim in ("unshare", "keeper"):
        name = _name(outside, victim)
        assert outside.call("up", SMALL, "--name", name).returncode == 0
        with outside.start("exec", "-c", name, "store0", "--", "sleep", "60") as inside:
            wait_for(lambda: len(outside.processes()) >= 4, "the start of the program", 10)
            (pid,) = [pid for pid in outside.processes() if _is(pid, victim)]
            signal.pidfd_send_signal(_pidfd(pid), signal.SIGKILL)
            assert inside.wait(10) != 0
        wait_for(lambda: not outside.processes(), "the end of every process")
        assert not outside.names(name)


def _is(pid: int, victim: str) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    if victim == "unshare":
        return words[0].endswith(b"unshare")
    return not words[0].endswith(b"unshare") and b"testbed.clusters.keeper" in words


def _pidfd(pid: int) -> int:
    import os

    return os.pidfd_open(pid)


@pytest.mark.parametrize("stopped", ["unshare", "keeper"])
def test_a_stopped_cluster_hides_no_other_and_goes_down(outside: Outside, stopped: str) -> None:
    name, other = _name(outside, "stopped"), _name(outside, "other")
    for one in (name, other):
        assert outside.call("up", SMALL, "--name", one).returncode == 0
    (keeper,) = _keepers(outside, name)
    pid = keeper if stopped == "keeper" else _parent(keeper)
    signal.pidfd_send_signal(_pidfd(pid), signal.SIGSTOP)
    assert other in outside.call("status").stdout
    assert outside.call("down", name).returncode == 0
    assert not outside.names(name)
    assert outside.call("exec", "-c", other, "store0", "--", "true").returncode == 0
    assert outside.call("down", other).returncode == 0


def _keepers(outside: Outside, name: str) -> set[int]:
    found = {pid for pid in outside.processes() if _is(pid, "keeper")}
    return {pid for pid in found if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_mininets_command_line_and_a_missing_program(outside: Outside) -> None:
    name = _name(outside, "shell")
    assert outside.call("up", SMALL, "--name", name).returncode == 0
    script = outside.folder / "script"
    script.write_text("nodes\npe0-buf ping -c1 de0-buf\npe0-buf hostname -I\nexit\n")
    told = outside.call("shell", "-c", name, "--script", str(script))
    assert told.returncode == 0, told.stderr
    said = told.stdout + told.stderr
    assert "sw-storage" in said and "0% packet loss" in said and "198.18.0." in said
    missing = outside.call("exec", "-c", name, "store0", "--", "no-such-program")
    assert (missing.returncode, "no such program" in missing.stderr) == (127, True)
    forbidden = outside.call("exec", "-c", name, "store0", "--", str(script))
    assert (forbidden.returncode, "Permission denied" in forbidden.stderr) == (126, True)
    assert outside.call("down", name).returncode == 0
