"""Choose several instances by a line drawn around them."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QPushButton, QWidget
from skimage.draw import polygon

from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain

__all__ = ["LASSO_NAME", "Lasso", "ids_inside"]

LASSO_NAME = "volseg: lasso"


class Lasso(QPushButton):
    """A button; while it is down, the next outline in the viewer chooses."""

    chosen = Signal(object)
    """The instances inside the outline."""
    told = Signal(str)

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__("Lasso", parent)
        self.setCheckable(True)
        self._viewer = viewer
        self._labels: Labels | None = None
        self._layer: Any = None
        self._connections = Connections(self)
        self._connections.add(viewer.layers.events.removed, self._look)

    def begin(self, labels: Labels) -> None:
        """Let the user draw around instances of a layer."""
        self._labels = labels
        self._layer = plain(
            self._viewer.add_shapes(
                ndim=3,
                name=LASSO_NAME,
                edge_color="white",
                edge_width=1,
                face_color="transparent",
                metadata={METADATA_KEY: {"role": "lasso", "helper": True}},
                **placement(labels).layer_options(),
            )
        )
        self._layer.mode = "add_polygon_lasso"
        self._connections.add(self._layer.events.data, self._notice)
        self.setChecked(True)
        self.told.emit("Draw around the instances: drag, or click twice.")

    def cancel(self) -> None:
        """Take the outline away and choose nothing."""
        layer, labels = self._layer, self._labels
        self._layer = self._labels = None
        self.setChecked(False)
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
        if labels is not None and labels in self._viewer.layers:
            self._viewer.layers.selection.active = labels

    def _notice(self, event: Any) -> None:
        """Finish once napari is through with what it draws."""
        if "ADDED" in str(getattr(event, "action", "")).upper():
            QTimer.singleShot(0, self._finish)

    def _finish(self) -> None:
        layer, labels = self._layer, self._labels
        if layer is None or labels is None or not len(layer.data):
            return
        corners = np.asarray(layer.data[-1], float)
        self.cancel()
        self.chosen.emit(ids_inside(labels.data, corners))

    def _look(self, event: Any) -> None:
        """Notice that the user took the layer away."""
        if self._layer is not None and plain(event.value) is self._layer:
            self._layer = self._labels = None
            self.setChecked(False)


def ids_inside(
    labels_ZYX: NDArray[np.integer[Any]], corners_N3: NDArray[np.float64]
) -> list[int]:
    """Return the instances that an outline in one slice holds, even in part."""
    axis = int(np.argmin(np.ptp(corners_N3, axis=0)))
    index = round(float(corners_N3[:, axis].mean()))
    if not 0 <= index < labels_ZYX.shape[axis]:
        return []
    plane = np.moveaxis(labels_ZYX, axis, 0)[index]
    rows, columns = np.delete(corners_N3, axis, axis=1).T
    inside = polygon(rows, columns, plane.shape)  # type: ignore[no-untyped-call]
    found = np.unique(plane[inside])
    return [int(i) for i in found if i]
