"""What every test shares."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that open windows run in one process, first, so that none waits long."""
    for item in items:
        if item.get_closest_marker("gui"):
            item.add_marker(pytest.mark.xdist_group("gui"))
    items.sort(key=lambda item: item.get_closest_marker("gui") is None)
