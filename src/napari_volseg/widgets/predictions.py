"""Which predictions a viewer shows: layers that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size
from napari_volseg.models import read_model_info
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.layers import METADATA_KEY, plain
from napari_volseg.widgets.outputs import MAPS, is_ours
from napari_volseg.widgets.viewers import camera_of

__all__ = [
    "PredictionCombo",
    "ShownPrediction",
    "shown_predictions",
    "shown_slice",
    "view_box",
    "view_slices",
]

_WHOLE = 16 * 2**20
"""Voxels up to which a whole volume is segmented again."""
_EDGE = 256
_CONTEXT = 4
"""Slices on either side that the one that is shown is segmented with."""


@dataclass
class ShownPrediction:
    """The layers of one prediction, by role."""

    key: str
    image: str
    model: str | None
    layers: dict[str, Layer] = field(default_factory=dict)

    @property
    def maps(self) -> list[Any]:
        """The data of mask, boundary and distance, uint8 (Z, Y, X)."""
        return [self.layers[role].data for role in MAPS]

    @property
    def shape_ZYX(self) -> Size:
        """Shape of the maps."""
        z, y, x = self.layers["mask"].data.shape
        return int(z), int(y), int(x)

    @property
    def words(self) -> str:
        """How the combo box calls it."""
        if self.model is None:
            return self.image
        return f"{self.image} · {Path(self.model).parent.name}"

    def voxel_at(self, world: Sequence[float]) -> NDArray[np.float64] | None:
        """Return the point z, y, x of the maps at a place in the world, or None."""
        point = np.asarray(
            self.layers["mask"].world_to_data(np.asarray(world, float)[-3:]), float
        )
        shape = np.array(self.shape_ZYX)
        is_inside = ((point >= -0.5) & (point < shape - 0.5)).all()
        return point if is_inside else None

    def thresholds(self) -> InstancesConfig:
        """Return the thresholds that the instances were made with, as far as known."""
        origin = getattr(self.layers.get("instances"), "metadata", {})
        used = origin.get(METADATA_KEY, {}).get("thresholds")
        return (
            self.model_thresholds()
            if used is None
            else InstancesConfig.model_validate(used)
        )

    def model_thresholds(self) -> InstancesConfig:
        """Return the thresholds of the model, or the defaults when it is gone."""
        try:
            return (
                InstancesConfig()
                if self.model is None
                else read_model_info(self.model).instances
            )
        except DataError:
            return InstancesConfig()


def shown_predictions(viewer: Any) -> list[ShownPrediction]:
    """Return the predictions of which all three maps are shown, newest first."""
    found: dict[str, ShownPrediction] = {}
    for layer in map(plain, viewer.layers):
        origin = layer.metadata.get(METADATA_KEY)
        if not isinstance(origin, dict) or "prediction" not in origin:
            continue
        key = str(origin["prediction"])
        shown = found.setdefault(
            key, ShownPrediction(key, str(origin.get("image", "")), origin.get("model"))
        )
        if origin["role"] in MAPS or (
            isinstance(layer, Labels) and is_ours(layer) and not origin.get("edited")
        ):
            shown.layers[origin["role"]] = layer
    whole = [each for each in found.values() if MAPS.keys() <= each.layers.keys()]
    return whole[::-1]


class PredictionCombo(QComboBox):
    """The predictions shown in a viewer; a new one is chosen at once."""

    prediction_changed = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        fit_narrow(self)
        self._viewer = viewer
        self._keys: list[str] = []
        self._connections = Connections(self)
        for name in ("inserted", "removed", "reordered", "renamed"):
            self._connections.add(getattr(viewer.layers.events, name), self.refresh)
        self.currentIndexChanged.connect(self._report)
        self.refresh()

    def prediction(self) -> ShownPrediction | None:
        """Return the chosen prediction with the layers it has now."""
        key = self.key()
        for shown in shown_predictions(self._viewer):
            if shown.key == key:
                return shown
        return None

    def key(self) -> str | None:
        """Return what names the chosen prediction."""
        index = self.currentIndex()
        return self._keys[index] if 0 <= index < len(self._keys) else None

    def refresh(self, event: object = None) -> None:
        """List the predictions again."""
        shown = shown_predictions(self._viewer)
        keys = [each.key for each in shown]
        if keys == self._keys:
            return
        chosen = self.key()
        is_new = bool(keys) and keys[0] not in self._keys
        self.blockSignals(True)
        self._keys = keys
        self.clear()
        self.addItems([each.words for each in shown])
        self.setCurrentIndex(0 if is_new or chosen not in keys else keys.index(chosen))
        self.blockSignals(False)
        self.setEnabled(bool(keys))
        if self.key() != chosen:
            self.prediction_changed.emit()

    def _report(self, index: int) -> None:
        self.prediction_changed.emit()


def view_box(viewer: Any, layer: Layer, shape_ZYX: Size) -> Box:
    """Return the whole volume when it is small, else a box around the view."""
    whole = Box.whole(shape_ZYX)
    if whole.size <= _WHOLE:
        return whole
    return box_around(_centre(viewer, layer), shape_ZYX)


def view_slices(viewer: Any, layer: Layer, box: Box) -> Box | None:
    """Return the slices around the one that is shown, at the view, inside a box.

    None in 3D, and where the view lies beside the box.
    """
    if viewer.dims.ndisplay != 2:
        return None
    centre = _centre(viewer, layer)
    axis = int(viewer.dims.not_displayed[-1]) - (viewer.dims.ndim - 3)
    start, stop = [], []
    for i, (value, low, high) in enumerate(
        zip(centre, box.start, box.stop, strict=True)
    ):
        reach = _CONTEXT if i == axis else _EDGE // 2
        middle = round(float(value))
        start.append(min(max(low, middle - reach), high))
        stop.append(min(max(low, middle + reach + (i == axis)), high))
    slices = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
    return slices if slices.size else None


def shown_slice(viewer: Any, layer: Layer) -> tuple[int, int]:
    """Return the axis (0, 1 or 2) across which a slice is shown, and its voxel."""
    axis = int(viewer.dims.not_displayed[-1]) - (viewer.dims.ndim - 3)
    return axis, round(float(_centre(viewer, layer)[axis]))


def _centre(viewer: Any, layer: Layer) -> NDArray[np.float64]:
    """Return the middle of the view in the voxels of a layer."""
    world = np.array(viewer.dims.point, float)[-3:]
    displayed = list(viewer.dims.displayed)[-2:]
    offset = viewer.dims.ndim - 3
    centre = np.asarray(camera_of(viewer).center, float)[-2:]
    for axis, value in zip(displayed, centre, strict=True):
        world[axis - offset] = value
    point: NDArray[np.float64] = np.asarray(layer.world_to_data(world), float)[-3:]
    return point


def box_around(point: Sequence[float] | Any, shape_ZYX: Size) -> Box:
    """Return a box of at most 256 voxels an edge around a point, inside a volume."""
    start, stop = [], []
    for centre, length in zip(point, shape_ZYX, strict=True):
        edge = min(_EDGE, length)
        first = min(max(0, round(float(centre)) - edge // 2), length - edge)
        start.append(first)
        stop.append(first + edge)
    z0, y0, x0 = start
    z1, y1, x1 = stop
    return Box((z0, y0, x0), (z1, y1, x1))
