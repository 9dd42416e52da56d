"""What all tests share: marks by folder."""

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
