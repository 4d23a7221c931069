"""The thread of a job ends, is forgotten and leaves nothing to Qt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from superqt.utils import WorkerBase

from napari_volseg.widgets.follower import make_follower


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_every_worker_tells_all_and_is_forgotten(
    qtbot: Any, hasty_threads: None
) -> None:
    told: list[int] = []
    ended: list[object] = []
    freed: list[object] = []
    for i in range(100):
        worker = make_follower(iter([i]), "a job", on_quit=lambda: None)
        worker.yielded.connect(told.append)
        worker.finished.connect(lambda: ended.append(None))
        worker.signals.destroyed.connect(freed.append)
        worker.start()
    qtbot.waitUntil(lambda: len(freed) == 100, timeout=60_000)
    assert not WorkerBase._worker_set
    assert sorted(told) == list(range(100))
    assert len(ended) == 100
