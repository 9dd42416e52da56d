"""What tests of namespaces share: each way in which private namespaces are made."""

import os

import pytest

from testbed.fabric.privilege import PRIVILEGE_ENV


@pytest.fixture(params=["rootless", "sudo"])
def privilege(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both modes, one after the other, as far as who runs the tests may."""
    chosen: str = request.param
    if chosen == "sudo" and os.geteuid() != 0:
        pytest.skip("sudo mode needs root")
    monkeypatch.setenv(PRIVILEGE_ENV, chosen)
    return chosen
