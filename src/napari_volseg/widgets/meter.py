"""How much is annotated, and of how many instances, while the user paints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_volseg.counting import Counted, SliceCounter
from napari_volseg.errors import DataError
from napari_volseg.runs.pairs import Role
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.messages import count_words, sentence, wrapped_label
from napari_volseg.widgets.snapshots import PairSnapshot
from napari_volseg.widgets.threads import make_worker

__all__ = ["AnnotationMeter", "CountedPair", "Pairs", "count_pairs", "share_words"]

COUNT_AT_MOST = 512 * 2**20
"""Voxels up to which the annotation is counted while the user paints."""

_REFRESH_MS = 600
_BAR = 1000

Pairs = Sequence[tuple[PairSnapshot, Role]]


@dataclass(frozen=True)
class CountedPair:
    """A pair of layers and what was counted of it."""

    snapshot: PairSnapshot
    role: Role
    counter: SliceCounter
    counted: Counted

    @property
    def words(self) -> str:
        """Return the share that is annotated and the number of instances."""
        n = count_words(self.counted.n_instances, "instance")
        return f"{share_words(self.counted.share)} annotated · {n}"


class AnnotationMeter(QWidget):
    """A line and a bar for each pair; counts again soon after a stroke.

    Only slices that were painted are read again.

    Parameters
    ----------
    capture
        Returns live snapshots of the chosen pairs, or raises DataError.
    """

    counted = Signal(object)
    """A list of `CountedPair`, in the order of the pairs."""

    def __init__(
        self,
        viewer: Any,
        capture: Callable[[], Pairs],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._capture = capture
        self._task = _Task()
        self._is_busy = False
        self._counters: list[SliceCounter] = []
        self._labels: list[int] = []
        self._dirty: dict[int, set[int]] = {}
        self._is_unsure = False
        self._is_outdated = False
        """Whether what is being counted must be counted anew."""
        self._head = wrapped_label("")
        self._rows: list[_Row] = []
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(3)
        self._layout.addWidget(self._head)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_REFRESH_MS)
        self._later.timeout.connect(self._count)
        self._watched = Connections(self)
        self.destroyed.connect(self._task.cancel)

    def text(self) -> str:
        """Return all that is shown, line by line."""
        rows = [row.line.text() for row in self._rows if not row.isHidden()]
        return "\n".join([self._head.text(), *rows])

    def show_problem(self, text: str) -> None:
        """Say why nothing can be counted."""
        self._head.setText(f"{sentence(text)}.")
        self._show_rows([])

    def show_head(self, text: str) -> None:
        """Show a line above the counts, which stay."""
        self._head.setText(text)

    def follow(self, labels: Sequence[Layer | None], region: Layer | None) -> None:
        """Count when one of these labels layers, or the region, is painted on."""
        self._watched.close()
        self._labels = [id(plain(layer)) for layer in labels]
        for layer in labels:
            if isinstance(layer, Labels):
                self._watched.add(layer.events.paint, self._note_paint)
                # Of an undo napari tells only that the view is drawn again.
                self._watched.add(layer.events.set_data, self._note_drawn)
        for layer in (*labels, region):
            for name in ("data", "scale", "translate", "units"):
                if layer is not None and name in layer.events:
                    self._watched.add(getattr(layer.events, name), self.forget)
        if isinstance(region, Labels):
            self._watched.add(region.events.paint, self.forget)
        self.forget()

    def forget(self, event: object = None) -> None:
        """Count everything anew, soon."""
        self._counters = []
        self._is_unsure = False
        self._is_outdated = True
        self._count_later()

    def _note_paint(self, event: Any) -> None:
        slices = painted_slices(getattr(event, "value", None))
        if slices is None or self._is_unsure:
            self.forget()
            return
        self._dirty.setdefault(id(event.source), set()).update(slices)
        self._count_later()

    def _note_drawn(self, event: Any) -> None:
        """Count the slice that is looked at, which an undo may have changed."""
        labels, dims = event.source, self._viewer.dims
        is_flat = labels.ndim < 3  # its data were replaced by a plane
        if is_flat or labels.n_edit_dimensions > 2 or dims.ndim - 3 in dims.displayed:
            self._is_unsure = True
            return
        z = round(float(labels.world_to_data(dims.point)[-3]))
        self._dirty.setdefault(id(labels), set()).add(z)
        self._count_later()

    def _count_later(self) -> None:
        if not self._later.isActive():
            self._later.start()

    def _count(self) -> None:
        """Count in a thread; one at a time."""
        if self._is_busy:
            self._count_later()
            return
        try:
            pairs = self._capture()
        except DataError:
            return
        if sum(snapshot.labels.size for snapshot, _ in pairs) > COUNT_AT_MOST:
            self._show_rows([])
            return
        counters = self._counters if len(self._counters) == len(pairs) else []
        for key, counter in zip(self._labels, counters, strict=False):
            counter.forget(self._dirty.get(key, ()))
        self._dirty.clear()
        self._is_outdated = False
        self._is_busy = True
        worker = make_worker(count_pairs, pairs, counters, self._task.asked)
        worker.returned.connect(self._take)
        worker.errored.connect(self._fail)
        worker.start()

    def _take(self, answer: list[CountedPair] | str | None) -> None:
        self._is_busy = False
        if answer is None or self._is_outdated:
            return
        if isinstance(answer, str):
            self.show_problem(answer)
            return
        self._counters = [pair.counter for pair in answer]
        self._show_rows(answer)
        self.counted.emit(answer)

    def _fail(self, error: Exception) -> None:
        self._is_busy = False
        self.show_problem(f"the annotation cannot be counted ({error})")

    def _show_rows(self, pairs: Sequence[CountedPair]) -> None:
        while len(self._rows) < len(pairs):
            row = _Row()
            self._rows.append(row)
            self._layout.addWidget(row)
        for row in self._rows[len(pairs) :]:
            row.hide()
        for row, pair in zip(self._rows, pairs, strict=False):
            row.show_pair(pair, is_alone=len(pairs) == 1)


class _Row(QWidget):
    """One pair: words and a slim bar."""

    def __init__(self) -> None:
        super().__init__()
        self.line = wrapped_label("")
        self.bar = QProgressBar()
        self.bar.setRange(0, _BAR)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.line)
        layout.addWidget(self.bar)

    def show_pair(self, pair: CountedPair, *, is_alone: bool) -> None:
        """Show what was counted; with several pairs, of which image."""
        name = pair.snapshot.image.name
        self.line.setText(pair.words if is_alone else f"{name}: {pair.words}")
        share = pair.counted.share
        self.bar.setValue(max(round(_BAR * share), 1 if share > 0 else 0))
        self.bar.setAccessibleName(f"Annotated share of {name}")
        self.bar.setToolTip(
            f"{pair.counted.n_annotated:,} of {pair.counted.n_voxels:,} voxels of "
            f"'{name}' are annotated"
        )
        self.show()


class _Task:
    """Shared with a thread: whether anybody still waits for it."""

    def __init__(self) -> None:
        self._is_cancelled = False

    def cancel(self, *_: object) -> None:
        self._is_cancelled = True

    def asked(self) -> bool:
        return self._is_cancelled


def share_words(share: float) -> str:
    """Return a share as 0.45 %, 2.4 %, 38 % or 100 %."""
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


def painted_slices(item: object) -> set[int] | None:
    """Return the z of what a stroke changed; None when napari does not say.

    A stroke is a list of changes, each with a box of slices or with one array of
    indices for each axis.
    """
    found: set[int] = set()
    if not isinstance(item, list):
        return None
    for change in item:
        key = getattr(change, "slice_key", None)
        if key is not None:
            if len(key) != 3 or not isinstance(key[0], slice):
                return None
            found.update(range(key[0].start, key[0].stop))
        elif isinstance(change, tuple) and len(change[0]) == 3:
            found.update(int(z) for z in np.unique(np.asarray(change[0][0])))
        else:
            return None
    return found


def count_pairs(
    pairs: Pairs,
    counters: Sequence[SliceCounter] = (),
    is_cancelled: Callable[[], bool] = lambda: False,
) -> list[CountedPair] | str | None:
    """Return the counts, what is wrong, or None when nobody waits any more.

    Reads every voxel, or those that the counters of an earlier time have to read
    again: call it in a worker thread.
    """
    result = []
    try:
        for i, (snapshot, role) in enumerate(pairs):
            counter = counters[i] if counters else _new_counter(snapshot)
            counted = counter.count(is_cancelled)
            if counted is None:
                return None
            result.append(CountedPair(snapshot, role, counter, counted))
    except DataError as error:
        return str(error)
    return result


def _new_counter(snapshot: PairSnapshot) -> SliceCounter:
    annotated, region = snapshot.annotated, None
    if snapshot.region is not None:
        region = snapshot.region.mask(snapshot.image.shape_ZYX, annotated.all_slices)
    return SliceCounter(
        snapshot.labels,
        annotated.rule,
        annotated.background_id,
        region,
        f"the labels layer '{snapshot.labels_name}'",
    )
