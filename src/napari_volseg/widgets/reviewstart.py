"""Begin a review: copy what is not ours, read and measure in a thread."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import QObject, Signal

from napari_volseg.errors import DataError
from napari_volseg.review import Helper
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.outputs import add_layer
from napari_volseg.widgets.reviewing import Reviewing
from napari_volseg.widgets.reviewopening import (
    Opened,
    is_ours,
    make_copy,
    open_review,
    request_for,
    take_again,
)
from napari_volseg.widgets.threads import in_thread

__all__ = ["Starter"]

_copies: weakref.WeakKeyDictionary[Labels, weakref.ref[Labels]] = (
    weakref.WeakKeyDictionary()
)
"""Of layers of the user, those that are reviewed in their place."""


class Starter(QObject):
    """Opens the review of one layer at a time."""

    opened = Signal(object, object)
    """The layer that may be edited, and its `Opened`."""
    copied = Signal(object)
    """The copy that was added for a layer that is not ours."""
    told = Signal(str)
    failed = Signal(str)
    changed = Signal()
    """Whether something is being opened."""

    def __init__(self, viewer: Any, helper: Helper, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._helper = helper
        self._note = ""
        self.is_busy = False

    def start(self, layer: Labels) -> None:
        """Open a layer; does nothing while another is being opened."""
        if self.is_busy:
            return
        try:
            if is_ours(layer):
                self._open(layer)
                return
            if found := _copy_of(self._viewer, layer):
                self._go_on_with(found, layer)
                return
            copy = make_copy(layer)
        except DataError as error:
            self.failed.emit(str(error))
            return
        self._set_busy(True, "Copying the labels…")
        in_thread(copy, partial(self._take_copy, layer), self._give_up, self)

    def _go_on_with(self, copy: Labels, original: Labels) -> None:
        """Take the copy that is there: a second one would be saved in its place."""
        original.visible = False
        self._note = (
            f"'{original.name}' is reviewed in its copy '{copy.name}'; to copy it "
            "anew, remove that layer first. "
        )
        self.copied.emit(copy)
        self._open(copy)

    def _take_copy(self, original: Labels, copy: Labels) -> None:
        self._set_busy(False)
        add_layer(self._viewer, copy)
        _copies[original] = weakref.ref(copy)
        original.visible = False
        self._note = (
            f"'{original.name}' stays as it is; the review edits the copy "
            f"'{copy.name}'. "
        )
        self.copied.emit(copy)
        try:
            self._open(copy)
        except DataError as error:
            self.failed.emit(str(error))

    def _open(self, layer: Labels) -> None:
        """Open a layer of ours, in a thread unless its review is known."""
        known = Reviewing.known(layer)
        if known is not None:
            take_again(known)
            self._emit(layer, known)
            return
        request = request_for(self._viewer, layer)
        unlock, is_gone = _lock(layer), threading.Event()

        def abandon(*_: object) -> None:
            is_gone.set()
            unlock()

        # Neither of the others is called once the dock is closed.
        self.destroyed.connect(abandon)
        self._set_busy(True, "Reading and measuring the instances…")

        def take(opened: Opened) -> None:
            unlock()
            self._set_busy(False)
            is_shown = layer in map(plain, self._viewer.layers)
            if is_shown and layer.data is request.labels_ZYX:
                self._emit(layer, opened)
                return
            if opened.folder is not None:
                opened.folder.release()
            if is_shown:
                self.failed.emit(
                    f"'{layer.name}' got other data while it was read: press Review "
                    "again"
                )

        def lose(message: str) -> None:
            unlock()
            self._give_up(message)

        work = partial(open_review, request, self._helper, is_gone.is_set)
        in_thread(work, take, lose, self)

    def _emit(self, layer: Labels, opened: Opened) -> None:
        opened.message, self._note = f"{self._note}{opened.message}".strip(), ""
        self.opened.emit(layer, opened)

    def _give_up(self, message: str) -> None:
        self._note = ""
        self._set_busy(False)
        self.failed.emit(message)

    def _set_busy(self, is_busy: bool, words: str = "") -> None:
        self.is_busy = is_busy
        self.told.emit(words)
        self.changed.emit()


def _copy_of(viewer: Any, original: Labels) -> Labels | None:
    """Return the copy of a layer that a viewer shows for review, if there is one."""
    found = _copies[original]() if original in _copies else None
    is_shown = found is not None and found in map(plain, viewer.layers)
    return found if is_shown and found is not None and is_ours(found) else None


def _lock(layer: Labels) -> Callable[[], None]:
    """Keep a layer from being painted on.

    Returns what lets go of it again; calling it twice does no harm.
    """
    locked = [weakref.ref(layer)] if layer.editable else []
    layer.editable = False

    def unlock() -> None:
        while locked:
            found = locked.pop()()
            if found is not None:
                found.editable = True

    return unlock
