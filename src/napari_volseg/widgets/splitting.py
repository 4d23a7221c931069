"""Points and lines that say where an instance is to be split."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QComboBox, QPushButton, QWidget

from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.keys import Keys
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain

__all__ = ["POINTS_NAME", "Splitter"]

POINTS_NAME = "volseg: split"


class Splitter(QWidget):
    """Adds a layer to mark the parts of an instance, and takes it away again."""

    ready = Signal(int, object)
    """The instance, and ``points`` or ``line`` in its voxels."""
    told = Signal(str)
    """What to do; empty once that is over."""
    changed = Signal()

    def __init__(self, viewer: Any, keys: Keys, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._keys = keys
        self._label = 0
        self._labels: Labels | None = None
        self._layer: Any = None
        self._connections = Connections(self)
        self._connections.add(viewer.layers.events.removed, self._look)
        self.way = fit_narrow(QComboBox())
        self.way.addItem("points", "points")
        self.way.addItem("a line", "line")
        self.way.setToolTip(
            "Split between a point on each part, or where a line crosses the instance"
        )
        self.cancel_button = QPushButton("Cancel the split")
        self.cancel_button.setToolTip("Do not split")
        self.cancel_button.clicked.connect(self.cancel)
        rows = narrow_form()
        rows.setContentsMargins(0, 0, 0, 0)
        add_row(rows, "Split by", self.way)
        rows.addRow(self.cancel_button)
        self.setLayout(rows)
        self.cancel_button.hide()

    @property
    def is_active(self) -> bool:
        """Whether marks are being set."""
        return self._layer is not None

    def begin(self, labels: Labels, label: int) -> None:
        """Let the user mark the parts of an instance."""
        self._labels, self._label = labels, label
        options: dict[str, Any] = {
            "ndim": 3,
            "name": POINTS_NAME,
            "metadata": {METADATA_KEY: {"role": "split", "helper": True}},
            **placement(labels).layer_options(),
        }
        is_line = self.way.currentData() == "line"
        if is_line:
            self._layer = plain(
                self._viewer.add_shapes(edge_color="white", edge_width=1, **options)
            )
            self._layer.mode = "add_path"
            self._connections.add(self._layer.events.data, self._take_line)
            words = "Draw a line across the instance: drag, or click at both ends."
        else:
            self._layer = plain(
                self._viewer.add_points(size=6, face_color="white", **options)
            )
            self._layer.mode = "add"
            words = "Click on each part of the instance, then press S again."
        self._keys.bind(self._layer)
        self.cancel_button.show()
        self.told.emit(words)
        self.changed.emit()

    def finish(self) -> None:
        """Split with the points that are set."""
        if self._layer is None or self._labels is None:
            return
        points = np.asarray(self._layer.data, float)
        if self.way.currentData() == "line":
            self.told.emit("Draw the line first: drag, or click at both ends.")
            return
        if len(points) < 2:
            self.told.emit("Click on two parts of the instance at least.")
            return
        label = self._label
        self.cancel()
        self.ready.emit(label, {"points": points})

    def cancel(self) -> None:
        """Take the layer away and split nothing."""
        layer, labels = self._layer, self._labels
        self._layer = self._labels = None
        self.cancel_button.hide()
        self._keys.unbind(layer)
        if layer is not None:
            self.told.emit("")
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
        if labels is not None and labels in self._viewer.layers:
            self._viewer.layers.selection.active = labels
        self.changed.emit()

    def _take_line(self, event: Any) -> None:
        """Finish once napari is through with what it draws."""
        if "ADDED" in str(getattr(event, "action", "")).upper():
            QTimer.singleShot(0, self._finish_line)

    def _finish_line(self) -> None:
        if self._layer is None or not len(self._layer.data):
            return
        line = np.asarray(self._layer.data[-1], float)
        label = self._label
        self.cancel()
        self.ready.emit(label, {"line": line})

    def _look(self, event: Any) -> None:
        """Notice that the user took the layer away."""
        gone: Layer | None = plain(getattr(event, "value", None))
        if self._layer is not None and gone is self._layer:
            self._layer = self._labels = None
            self.cancel_button.hide()
            self.told.emit("")
            self.changed.emit()
