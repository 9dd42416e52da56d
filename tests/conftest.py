"""What all tests share: marks by folder."""

import signal
from pathlib import Path

import pytest

MARKED = ("net", "e2e")
CLUSTER_TIMEOUT_S = 300  # a whole cluster, on two cores that others use too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in tests/net and tests/e2e carry the mark of their folder."""
    for item in items:
        folder = Path(item.path).parent.name
        if folder in MARKED:
            item.add_marker(folder)
        if folder == "e2e":
            item.add_marker(pytest.mark.timeout(CLUSTER_TIMEOUT_S))


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background so, and commands that tests interrupt inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
