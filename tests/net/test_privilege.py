"""Rootless and sudo mode are one path; and the machine itself is no target, tested by trying."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import EnvironmentUnfit, InputError
from testbed.fabric import namespaces, netlink
from testbed.fabric.namespaces import OUTER_NETNS_ENV, require_private
from testbed.fabric.private import private_command, start_private
from testbed.fabric.privilege import PRIVILEGE_ENV, mode

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be refused as root")


def intrude(*argv: str) -> Any:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, str(HERE / "fabric_intruder.py"), *argv]
    with start_private(command, stdout=subprocess.PIPE, env=env) as process:
        out, _ = process.popen.communicate(timeout=60)
    assert process.popen.returncode == 0
    return json.loads(out)


def test_the_two_modes_differ_in_the_user_namespace_alone(privilege: str) -> None:
    command = private_command(["true"])
    assert ("--user" in command) == (privilege == "rootless")
    for namespace in ("--net", "--mount", "--pid", "--mount-proc", "--kill-child"):
        assert namespace in command
    assert command[command.index("--propagation") + 1] == "private"


def test_a_wrong_word_for_the_mode_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRIVILEGE_ENV, "root")
    with pytest.raises(InputError, match="rootless or sudo"):
        mode()


def test_sudo_mode_without_the_privilege_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRIVILEGE_ENV, "sudo")
    monkeypatch.setattr("testbed.fabric.privilege._effective_capabilities", lambda: 0)
    with pytest.raises(EnvironmentUnfit, match="under sudo, or unset"):
        mode()
    monkeypatch.delenv(PRIVILEGE_ENV)
    assert mode() == "rootless"


@pytest.mark.usefixtures("privilege")
def test_nothing_of_the_supervisor_is_inherited_but_the_lifeline() -> None:
    with open(__file__) as held:
        os.set_inheritable(held.fileno(), True)
        found = intrude("files")
    assert [link for link in found["open"] if link.endswith(".py")] == []
    assert len([link for link in found["open"] if link.startswith("pipe:")]) == 2  # and stdout
    assert found["umask"] & 0o022 == 0o022


@pytest.mark.usefixtures("privilege")
def test_the_machines_own_settings_cannot_be_written_from_inside() -> None:
    assert "written" not in intrude("machine").values()


@pytest.mark.usefixtures("privilege")
def test_the_namespaces_of_who_started_it_are_refused_from_inside() -> None:
    private, request = intrude("claim")
    assert "not PID 1 of private namespaces" in private
    assert "machine's own network namespace" in request


@pytest.mark.usefixtures("privilege")
def test_an_fd_from_outside_cannot_be_joined_and_an_own_one_can() -> None:
    fd = "0"  # of the intruder: not a namespace at all, but told to it as one from outside
    outer, own = intrude("outer", fd)
    assert "outside the lab" in outer
    assert own == ""


@needs_root
@pytest.mark.parametrize("claim", [None, "", "0", "1,2,3", "forged", str(2**40)])
def test_no_claim_of_the_environment_opens_the_machines_namespace(
    claim: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OUTER_NETNS_ENV, raising=False)
    if claim is not None:
        monkeypatch.setenv(OUTER_NETNS_ENV, claim)
    with pytest.raises(EnvironmentUnfit, match="not PID 1 of private namespaces"):
        require_private()
    with pytest.raises(EnvironmentUnfit, match="never"):
        netlink.Rtnetlink()
    fd = namespaces.open_current()
    try:
        with pytest.raises(EnvironmentUnfit, match="started in"):
            namespaces.join(fd)
        with pytest.raises(EnvironmentUnfit, match="started in"):
            netlink.Rtnetlink(fd)
    finally:
        os.close(fd)


@needs_root
@pytest.mark.parametrize("left_out", ["--net", "--mount", "--pid"])
def test_a_namespace_that_was_not_made_is_noticed(left_out: str) -> None:
    command = private_command([sys.executable, "-c", TRY])
    command.remove(left_out)
    # Without --mount or --pid a fresh /proc would be mounted over the machine's own.
    command.remove("--mount-proc")
    command = [word for word in command if word != "--kill-child" or left_out != "--pid"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        out, _ = process.communicate(timeout=60)
    assert "not PID 1 of private namespaces" in out


TRY = """
from testbed.errors import EnvironmentUnfit
from testbed.fabric.namespaces import require_private
try:
    require_private()
except EnvironmentUnfit as refusal:
    print(refusal)
"""
