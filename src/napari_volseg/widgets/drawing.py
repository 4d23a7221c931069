"""Let the user draw one outline in the viewer, and say what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QPushButton, QWidget
from skimage.draw import polygon

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain

__all__ = ["DrawButton", "box_around", "ids_inside", "slice_of_line"]


class DrawButton(QPushButton):
    """A button; while it is down, the next outline in the viewer is taken.

    Parameters
    ----------
    mode
        napari's mode of a Shapes layer: what is drawn.
    hint
        How to draw, in a sentence.
    """

    drawn = Signal(object)
    """The corners of the outline, (N, 3) in voxels of the labels."""
    told = Signal(str)
    """How to draw; empty once that is over."""

    def __init__(
        self,
        text: str,
        viewer: Any,
        mode: str,
        hint: str,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(text, parent)
        self.setCheckable(True)
        self._name = f"volseg: {text.lower().rstrip('…')}"
        self._mode, self._hint = mode, hint
        self._viewer = viewer
        self._labels: Labels | None = None
        self._layer: Any = None
        self._connections = Connections(self)
        self._connections.add(viewer.layers.events.removed, self._look)

    def begin(self, labels: Labels) -> None:
        """Let the user draw on a layer."""
        self._labels = labels
        self._layer = plain(
            self._viewer.add_shapes(
                ndim=3,
                name=self._name,
                edge_color="white",
                edge_width=1,
                face_color="transparent",
                metadata={METADATA_KEY: {"role": "drawing", "helper": True}},
                **placement(labels).layer_options(),
            )
        )
        self._layer.mode = self._mode
        self._connections.add(self._layer.events.data, self._notice)
        self.setChecked(True)
        self.told.emit(self._hint)

    def cancel(self) -> None:
        """Take the outline away without a word."""
        layer, labels = self._layer, self._labels
        self._layer = self._labels = None
        self.setChecked(False)
        if layer is not None:
            self.told.emit("")
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
        if labels is not None and labels in self._viewer.layers:
            self._viewer.layers.selection.active = labels

    def _notice(self, event: Any) -> None:
        """Finish once napari is through with what it draws."""
        if "ADDED" in str(getattr(event, "action", "")).upper():
            QTimer.singleShot(0, self._finish)

    def _finish(self) -> None:
        layer = self._layer
        if layer is None or not len(layer.data):
            return
        corners = np.asarray(layer.data[-1], float)
        self.cancel()
        self.drawn.emit(corners)

    def _look(self, event: Any) -> None:
        """Notice that the user took the layer away."""
        if self._layer is not None and plain(event.value) is self._layer:
            self._layer = self._labels = None
            self.setChecked(False)
            self.told.emit("")


def ids_inside(
    labels_ZYX: NDArray[np.integer[Any]], corners_N3: NDArray[np.float64]
) -> list[int]:
    """Return the instances that an outline in one slice holds, even in part."""
    axis, index = _slice_of(corners_N3)
    if not 0 <= index < labels_ZYX.shape[axis]:
        return []
    plane = np.moveaxis(labels_ZYX, axis, 0)[index]
    rows, columns = np.delete(corners_N3, axis, axis=1).T
    inside = polygon(rows, columns, plane.shape)  # type: ignore[no-untyped-call]
    found = np.unique(plane[inside])
    return [int(i) for i in found if i]


def box_around(
    corners_N3: NDArray[np.float64], depth: int, shape_ZYX: Sequence[int]
) -> Box:
    """Return the box around an outline in one slice and the slices near it.

    Parameters
    ----------
    depth
        How many slices before and after the outline's own.

    Raises
    ------
    DataError
        If nothing of the volume lies in it.
    """
    axis, index = _slice_of(corners_N3)
    start = np.rint(corners_N3.min(axis=0)).astype(int)
    stop = np.rint(corners_N3.max(axis=0)).astype(int) + 1
    start[axis], stop[axis] = index - depth, index + depth + 1
    start = np.maximum(start, 0)
    stop = np.minimum(stop, shape_ZYX)
    if (start >= stop).any():
        raise DataError("the box lies outside the labels: draw it over them")
    (z, y, x), (z_stop, y_stop, x_stop) = start.tolist(), stop.tolist()
    return Box((z, y, x), (z_stop, y_stop, x_stop))


def _slice_of(corners_N3: NDArray[np.float64]) -> tuple[int, int]:
    """Return the axis across a flat outline, and which slice along it holds it."""
    axis = int(np.argmin(np.ptp(corners_N3, axis=0)))
    return axis, round(float(corners_N3[:, axis].mean()))


def slice_of_line(
    line_N3: NDArray[np.float64], shape_ZYX: Sequence[int], hidden: Sequence[int]
) -> tuple[int, int]:
    """Return the axis across the slice that a line lies in, and which slice it is.

    A line along one axis lies in slices of both others; the view says which is meant.

    Parameters
    ----------
    line_N3
        Its corners in voxels of an instance's box.
    shape_ZYX
        Shape of that box.
    hidden
        Axes that the viewer does not display.

    Raises
    ------
    DataError
        If it lies in no slice, or in one without the instance.
    """
    spread = np.ptp(line_N3, axis=0)
    flat = [int(axis) for axis in np.argsort(spread, kind="stable") if spread[axis] < 1]
    if not flat:
        raise DataError(
            "the line runs through several slices: draw it in one slice of the 2D view"
        )
    axis = next((axis for axis in hidden if axis in flat), flat[0])
    index = round(float(line_N3[:, axis].mean()))
    if not 0 <= index < shape_ZYX[axis]:
        raise DataError("the line lies in a slice without the instance")
    return axis, index
