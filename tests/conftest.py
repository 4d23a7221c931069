"""What every test shares."""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Run tests that open windows first, and all in one process."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("gui"):
                item.add_marker(pytest.mark.xdist_group("gui"))
    items.sort(key=lambda item: item.get_closest_marker("gui") is None)
