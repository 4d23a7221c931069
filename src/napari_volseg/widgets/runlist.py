"""The runs as a list: a picture, a name and how each has gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.runs import RunLister, RunSummary

__all__ = ["Listing", "RunList", "RunReader", "age_words", "run_words", "thumbnail"]

EDGE = 40
"""Pixels of a thumbnail."""
_FOLDER = Qt.ItemDataRole.UserRole


@dataclass(frozen=True)
class Listing:
    """The runs of a folder, and small pictures of their newest previews."""

    runs_dir: Path
    runs: Sequence[RunSummary]
    pictures: Mapping[Path, NDArray[np.uint8] | None]


class RunReader:
    """Reads the folder of runs in a thread, and of it only what has changed."""

    def __init__(self, runs_dir: Path) -> None:
        self._list = RunLister(runs_dir)
        self._pictures: dict[Path, tuple[Path, NDArray[np.uint8] | None]] = {}

    def __call__(self) -> Listing:
        """Return what there is now."""
        runs = self._list()
        pictures = {run.folder: self._picture(run.folder) for run in runs}
        return Listing(self._list.runs_dir, runs, pictures)

    def _picture(self, folder: Path) -> NDArray[np.uint8] | None:
        newest = max((folder / "previews").glob("preview-*.npz"), default=None)
        if newest is None:
            return None
        known = self._pictures.get(folder)
        if known is None or known[0] != newest:
            self._pictures[folder] = known = newest, thumbnail(newest)
        return known[1]


def thumbnail(preview: Path, edge: int = EDGE) -> NDArray[np.uint8] | None:
    """Return the middle slice of a preview: mask in grey, boundary in magenta.

    Returns
    -------
    array or None
        uint8 of shape (edge, edge, 3); None when the preview is gone or damaged.
    """
    try:
        with np.load(preview, allow_pickle=False) as arrays:
            maps_CZYX = arrays["maps"]
        plane = maps_CZYX[:, maps_CZYX.shape[1] // 2]
        height, width = plane.shape[1:]
        side = min(height, width)
        y, x = (height - side) // 2, (width - side) // 2
        index = (np.arange(edge) + 0.5) * side / edge
        rows, columns = y + index.astype(int), x + index.astype(int)
        mask, boundary = plane[:2][:, rows[:, None], columns].astype(np.uint16)
    except (OSError, ValueError, KeyError, IndexError):
        return None
    green = mask * (255 - boundary) // 255
    rest = np.maximum(mask // 2, boundary)
    return np.stack([rest, green // 2, rest], axis=-1).astype(np.uint8)


class RunList(QWidget):
    """Runs to choose from, newest first, with a line to filter them."""

    chosen = Signal()
    """Other runs are chosen, or those chosen have changed."""
    opened = Signal()
    """A run was double-clicked."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("Filter by name, preset or state")
        self.filter.setClearButtonEnabled(True)
        for clear in self.filter.findChildren(QToolButton):
            clear.setToolTip("Show all runs again")
        self.filter.setToolTip("Show the runs whose name, preset or state has this")
        self.list = QListWidget()
        self.list.setAccessibleName("Runs, newest first")
        self.list.setToolTip("Choose one run, or several to compare (Ctrl-click)")
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setIconSize(QSize(EDGE, EDGE))
        self.list.setMinimumHeight(220)
        self.list.setUniformItemSizes(True)
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.filter)
        layout.addWidget(self.list, 1)
        self._runs: dict[Path, RunSummary] = {}
        self.filter.textChanged.connect(self._apply_filter)
        self.list.itemSelectionChanged.connect(self.chosen)
        self.list.itemDoubleClicked.connect(self.opened)

    def runs(self) -> list[RunSummary]:
        """Return the chosen runs in the order of the list."""
        chosen = [item for item in self._items() if item.isSelected()]
        return [self._runs[item.data(_FOLDER)] for item in chosen]

    def choose(self, folders: Sequence[Path]) -> None:
        """Choose runs by their folders."""
        for item in self._items():
            item.setSelected(item.data(_FOLDER) in folders)

    def _items(self) -> list[QListWidgetItem]:
        items = (self.list.item(row) for row in range(self.list.count()))
        return [item for item in items if item is not None]

    def show_listing(self, listing: Listing) -> None:
        """Show these runs; what was chosen stays chosen while it is there."""
        before = self.runs()
        order = [run.folder for run in listing.runs]
        shown = [item.data(_FOLDER) for item in self._items()]
        self._runs = {run.folder: run for run in listing.runs}
        self.list.blockSignals(True)
        if order != shown:
            kept = {run.folder for run in before}
            self.list.clear()
            for folder in order:
                item = QListWidgetItem()
                item.setData(_FOLDER, folder)
                item.setSizeHint(QSize(0, EDGE + 8))
                self.list.addItem(item)
                item.setSelected(folder in kept)
        now = datetime.now(UTC)
        for item, run in zip(self._items(), listing.runs, strict=True):
            _fill(item, run, listing.pictures.get(run.folder), now)
        self.list.blockSignals(False)
        self._apply_filter()
        if self.runs() != before:
            self.chosen.emit()

    def _apply_filter(self, *_: object) -> None:
        words = self.filter.text().lower().split()
        for item in self._items():
            run = self._runs[item.data(_FOLDER)]
            text = f"{run.name} {run.preset} {run.state}".lower()
            hidden = not all(word in text for word in words)
            item.setHidden(hidden)
            if hidden and item.isSelected():
                item.setSelected(False)


def _fill(
    item: QListWidgetItem,
    run: RunSummary,
    picture: NDArray[np.uint8] | None,
    now: datetime,
) -> None:
    """Change only what differs: each change is painted."""
    text = f"{run.name}\n{run_words(run, now)}"
    if item.text() != text:
        item.setText(text)
        item.setToolTip("\n".join(filter(None, (text, run.message, str(run.folder)))))
    key = None if picture is None else picture.tobytes()
    if item.icon().isNull() or item.data(_FOLDER + 1) != key:
        item.setData(_FOLDER + 1, key)
        icon = QIcon(_pixmap(picture))
        icon.addPixmap(_pixmap(picture), QIcon.Mode.Selected)  # not tinted
        item.setIcon(icon)


def _pixmap(picture: NDArray[np.uint8] | None) -> QPixmap:
    if picture is None:
        empty = QPixmap(EDGE, EDGE)
        empty.fill(Qt.GlobalColor.transparent)
        return empty
    height, width, _ = picture.shape
    data: Any = np.ascontiguousarray(picture).tobytes()
    image = QImage(data, width, height, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image)  # which copies


def run_words(run: RunSummary, now: datetime) -> str:
    """Return how a run has gone: ``completed · F1 0.86 · 2 h ago · 3,000 steps``."""
    parts: list[str] = [run.state]
    if run.score is not None:
        parts.append(f"F1 {run.score:.2f}")
    parts.append(age_words(run.created, now))
    if run.step:
        parts.append(f"{run.step:,} steps")
    return " · ".join(filter(None, parts))


def age_words(created: str, now: datetime) -> str:
    """Return how long ago something was, empty when nobody knows."""
    try:
        seconds = (now - datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"
