"""Work in a thread of which only the newest wish matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_volseg.widgets.threads import make_worker

__all__ = ["Newest"]


class Newest(QObject):
    """Calls functions in a thread, one at a time; of those that wait only the newest.

    Reading maps from a file, or counting their values, takes a moment; a cursor or a
    slider asks again before that is over.
    """

    returned = Signal(object)
    """What the function returned."""
    failed = Signal(str)
    """Why it did not."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._wish: tuple[Any, ...] | None = None
        self._is_busy = False

    def ask(self, function: Callable[..., Any], *args: Any) -> None:
        """Call the function soon; a call that waits is dropped."""
        self._wish = (function, *args)
        if not self._is_busy:
            self._begin()

    def forget(self) -> None:
        """Drop a call that waits."""
        self._wish = None

    def _begin(self) -> None:
        wish, self._wish = self._wish, None
        if wish is None:
            return
        self._is_busy = True
        worker = make_worker(*wish)
        worker.returned.connect(self.returned)
        worker.errored.connect(self._tell)
        worker.finished.connect(self._end)
        worker.start()

    def _tell(self, error: Exception) -> None:
        self.failed.emit(str(error) or type(error).__name__)

    def _end(self) -> None:
        self._is_busy = False
        self._begin()
