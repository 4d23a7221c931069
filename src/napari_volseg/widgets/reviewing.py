"""The review of one labels layer: its session, its files and its helper process."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review import (
    Edit,
    Helper,
    Review,
    ReviewFolder,
    Step,
    measure_instances,
    renumber,
)
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.layerfeatures import LayerFeatures
from napari_volseg.widgets.layers import METADATA_KEY, voxel_size
from napari_volseg.widgets.preferences import autosave_minutes
from napari_volseg.widgets.reviewasking import Asking, Work
from napari_volseg.widgets.reviewleft import come_back, leave
from napari_volseg.widgets.reviewopening import Opened
from napari_volseg.widgets.threads import in_thread

__all__ = ["Reviewing"]

_SETTLE_MS = 60
_reviews: weakref.WeakKeyDictionary[Labels, Opened] = weakref.WeakKeyDictionary()
"""Reviews of layers that still exist, so that a dock finds them again."""


class Reviewing(QObject):
    """Edits a layer, keeps its table true and saves what is done.

    Work that takes long is done in the helper process; one at a time.
    """

    changed = Signal()
    """The table, the labels or the statuses changed."""
    busy_changed = Signal()
    failed = Signal(str)
    told = Signal(str)
    """Something that is no error."""
    outdated = Signal()
    """The layer got other data, so that this review is over."""

    def __init__(
        self, layer: Labels, opened: Opened, helper: Helper, dock: Any
    ) -> None:
        super().__init__(dock)
        self.layer = layer
        self.review: Review = opened.review
        self.maps: Sequence[Any] | None = opened.maps
        self.folder: ReviewFolder | None = opened.folder
        self._opened = opened
        self._strokes = opened.strokes
        self.busy = ""
        """What is being worked on, empty when nothing is."""
        self._helper = helper
        self._is_dirty = False
        self._n_saving = 0
        """Saves that are not known to have succeeded or failed yet."""
        self._is_closed = False
        self._is_measuring = False
        self._connections = Connections(dock)
        self._connections.add(layer.events.paint, self._take_stroke)
        self._connections.add(layer.events.data, self._lose_data)
        self._connections.add(layer.events.scale, self._take_voxel_size)
        self._connections.add(layer.events.units, self._take_voxel_size)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_SETTLE_MS)
        self._later.timeout.connect(self._measure)
        self._features = LayerFeatures(layer, self)
        self._autosave = QTimer(self)
        self._autosave.timeout.connect(self.save)
        if minutes := autosave_minutes():
            self._autosave.start(minutes * 60_000)
        _reviews[layer] = opened
        self._is_dirty = come_back(layer) or opened.is_unsaved
        self._show_table()
        if self.review.pending:
            self._mark_edited()
            self._later.start()
        self._take_voxel_size()

    @staticmethod
    def known(layer: Labels) -> Opened | None:
        """Return the review of a layer that another dock began in this session."""
        opened = _reviews.get(layer)
        is_same = opened is not None and opened.review.labels_ZYX is layer.data
        return opened if is_same else None

    @property
    def is_saved(self) -> bool:
        """Whether there is nothing to save."""
        return not self._is_dirty

    @property
    def unsaved_because(self) -> str:
        """Why it is saved nowhere; empty when it is."""
        return self._opened.unsaved_because

    def merge(self, ids: Sequence[int]) -> None:
        """Join instances."""
        self._at_once(lambda: self.review.merge(ids))

    def delete(self, ids: Sequence[int]) -> None:
        """Make instances background."""
        self._at_once(lambda: self.review.delete(ids))

    def say(self, ids: Sequence[int], status: Any) -> None:
        """Set a status."""
        self._at_once(lambda: self.review.say(ids, status))

    def undo(self) -> None:
        """Take back the last step."""
        self._travel(self.review.undo, "taken back")

    def redo(self) -> None:
        """Do the step again that was taken back last."""
        self._travel(self.review.redo, "done again")

    def split(
        self, label: int, hidden: Sequence[int] = (), **marks: NDArray[np.float64]
    ) -> None:
        """Split an instance between points, or along a line in one slice.

        Parameters
        ----------
        hidden
            Axes of the layer that the viewer does not display.
        marks
            ``points`` (N, 3), or ``line`` (N, 3), in voxels of the layer.
        """
        asking = self._asking()
        self._compute("splitting", lambda: asking.split(label, hidden, marks))

    def reshape(
        self, kind: str, ids: Sequence[int], threshold: float, reach: int
    ) -> None:
        """Grow or shrink instances to the mask, or fill their holes.

        Parameters
        ----------
        kind
            ``grow``, ``shrink`` or ``fill``.
        threshold
            Mask, 0 to 1, above which a voxel belongs to an instance.
        reach
            Voxels that an instance may grow.
        """
        words = f"{kind}ing" if kind != "shrink" else "shrinking"
        asking = self._asking()
        self._compute(words, lambda: asking.reshape(kind, ids, threshold, reach))

    def segment(self, ids: Sequence[int], margin: int, config: InstancesConfig) -> None:
        """Replace instances by what other thresholds make of a box around them.

        Parameters
        ----------
        margin
            Voxels by which the box reaches beyond them.
        """
        asking = self._asking()
        self._compute("segmenting", lambda: asking.segment(ids, margin, config))

    def segment_box(self, box: Box, config: InstancesConfig) -> None:
        """Replace what lies in a box as a whole by what other thresholds make of it.

        Instances that reach out of the box stay as they are.
        """
        asking = self._asking()
        self._compute("segmenting", lambda: asking.segment_box(box, config))

    def save(self) -> None:
        """Save in a thread; the dock says when that fails."""
        if self.folder is None or not self._is_dirty:
            return
        saved, self._is_dirty = self.review.snapshot(), False
        self._n_saving += 1

        def done(_: Any) -> None:
            self._n_saving -= 1
            self.review.trim(saved)

        def lose(message: str) -> None:
            self._n_saving -= 1
            self._is_dirty = True
            self.failed.emit(message)

        in_thread(partial(self.folder.save, saved), done, lose, self)

    def close(self) -> None:
        """Save at once and let go of the layer; safe to call again."""
        if self._is_closed:
            return
        self._is_closed = True
        self._connections.close()
        self._later.stop()
        self._features.close()
        self._autosave.stop()
        self.review.put_back()
        if Reviewing.known(self.layer) is not None:
            leave(self.layer, self.review, self._strokes)
        # One more save waits for those that go on: the lock must not go before them.
        self._opened.is_unsaved = self._is_dirty or self._n_saving > 0
        if self.folder is not None:
            try:
                if self._opened.is_unsaved:
                    self.folder.save(self.review.snapshot())
                self._opened.is_unsaved = False
            except DataError:
                pass  # said at the autosave before; the layer still has everything
            self.folder.release()

    def _asking(self) -> Asking:
        return Asking(self.review, self.maps, self._helper)

    def _at_once(self, do: Callable[[], Step]) -> None:
        if self.busy:
            self.failed.emit(f"wait: {self.busy} is still at work")
            return
        try:
            step = do()
        except DataError as error:
            self.failed.emit(str(error))
            return
        self._refresh(step)

    def _travel(self, move: Callable[[], tuple[Step | None, int]], words: str) -> None:
        if self.busy:
            self.failed.emit(f"wait: {self.busy} is still at work")
            return
        step, n_left = move()
        if step is None:
            return
        self._refresh(step)
        text = f"{step.words} {words}"
        if n_left:
            text += f"; {n_left} voxels that were painted since stayed as they are"
        self.told.emit(f"{text[:1].upper()}{text[1:]}.")

    def _compute(self, words: str, prepare: Callable[[], Work]) -> None:
        if self.busy:
            self.failed.emit(f"wait: {self.busy} is still at work")
            return
        first = self.review.first_free
        try:
            work = partial(prepare(), first)
        except DataError as error:
            self.failed.emit(str(error))
            return
        self._set_busy(words)

        def take(edit: Edit) -> None:
            self._set_busy("")
            if not edit.patches:
                self.told.emit("Nothing changed.")
                return
            try:
                # A new instance may have been painted meanwhile.
                free = self.review.first_free
                edit = renumber(edit, first, free, self.review.labels_ZYX.dtype)
            except DataError as error:
                self.failed.emit(str(error))
                return
            self._refresh(self.review.do(edit, dict.fromkeys(edit.ids, "corrected")))

        def lose(message: str) -> None:
            self._set_busy("")
            self.failed.emit(message)

        in_thread(work, self._unless_closed(take), self._unless_closed(lose), self)

    def _unless_closed(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        return lambda answer: None if self._is_closed else call(answer)

    def _set_busy(self, words: str) -> None:
        self.busy = words
        self.busy_changed.emit()

    def _refresh(self, step: Step) -> None:
        """Show what a step changed."""
        self._is_dirty = True
        if step.edit.patches:
            self._mark_edited()
            self.layer.refresh()
            self._later.start()
        else:
            self._show_table()

    def _mark_edited(self) -> None:
        """Note that the labels hold corrections, so that they are never replaced."""
        self.layer.metadata.setdefault(METADATA_KEY, {})["edited"] = True

    def _take_stroke(self, event: Any) -> None:
        """Note what the user painted with napari's tools."""
        self._strokes.take(event)
        self._is_dirty = True
        self._later.start()

    def undo_stroke(self) -> None:
        """Let napari take back its last stroke, and note what that changed."""
        self._follow_strokes(self.layer.undo)

    def redo_stroke(self) -> None:
        """Let napari do its last stroke again, and note what that changed."""
        self._follow_strokes(self.layer.redo)

    def _follow_strokes(self, move: Callable[[], None]) -> None:
        """Note what changes where the user painted; napari sends no event."""
        voxels = self.review.painted()
        before = self.review.values(voxels)
        move()
        is_moved = self._strokes.follow(self.layer)
        if self.review.note_changes(voxels, before) or is_moved:
            self._is_dirty = True
            self._later.start()

    def _lose_data(self, event: object = None) -> None:
        if self.layer.data is not self.review.labels_ZYX:
            _reviews.pop(self.layer, None)
            self.outdated.emit()

    def _take_voxel_size(self, event: object = None) -> None:
        """Measure everything again when the layer got another voxel size."""
        with suppress(DataError):  # without one, that from before stays
            size = voxel_size(self.layer)
            if size != self.review.voxel_size:
                self.review.take_voxel_size(size)
                self._later.start()

    def _measure(self) -> None:
        """Measure again what changed, in a thread."""
        if self._is_measuring or not self.review.pending:
            return
        self._is_measuring = True
        pending = self.review.take_pending()
        work = partial(
            measure_instances,
            self.review.labels_ZYX,
            self.maps,
            pending,
            self.review.voxel_size,
        )

        def take(rows: Mapping[str, NDArray[Any]]) -> None:
            self._is_measuring = False
            self.review.take_rows(rows)
            self._show_table()
            if self.review.pending:
                self._later.start()

        def lose(message: str) -> None:
            self._is_measuring = False
            self.review.put_back()
            self.failed.emit(message)

        in_thread(work, self._unless_closed(take), self._unless_closed(lose), self)

    def _show_table(self) -> None:
        """Tell the dock, and napari's Features table."""
        self.changed.emit()
        self._features.show({**self.review.table, "status": self.review.statuses()})
