"""Connections to napari's events that end with the object they serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject

__all__ = ["Connections"]


class Connections:
    """Callbacks on napari events, cut when a widget or another object of Qt dies.

    napari keeps calling a method of a deleted Qt object, which fails; a dock
    that is closed gets no close event, only `destroyed`.
    """

    def __init__(self, owner: QObject) -> None:
        self._pairs: list[tuple[Any, Callable[..., None]]] = []
        owner.destroyed.connect(self.close)

    def add(self, emitter: Any, callback: Callable[..., None]) -> None:
        """Connect a callback to an event emitter of napari."""
        emitter.connect(callback)
        self._pairs.append((emitter, callback))

    def close(self, *_: object) -> None:
        """Disconnect everything; harmless when called again."""
        while self._pairs:
            emitter, callback = self._pairs.pop()
            emitter.disconnect(callback)
