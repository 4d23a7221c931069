"""What every test shares."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that open windows first, and all in one process."""
    for item in items:
        if item.get_closest_marker("gui"):
            item.add_marker(pytest.mark.xdist_group("gui"))
    items.sort(key=lambda item: item.get_closest_marker("gui") is None)
