"""The values of all maps and the instance under the cursor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.newest import Newest
from napari_volseg.widgets.outputs import MAPS
from napari_volseg.widgets.predictions import PredictionCombo, ShownPrediction

__all__ = ["CursorValues", "read_values"]

_SETTLE_MS = 50
_NOTHING = "–"


class CursorValues(QWidget):
    """One line: mask, boundary, distance and instance where the cursor is.

    A voxel is read in a thread, at most twenty times a second and only when it is
    another one: maps may lie in a file.
    """

    def __init__(self, viewer: Any, prediction: PredictionCombo) -> None:
        super().__init__()
        self._viewer = viewer
        self._prediction = prediction
        self._at: tuple[object, ...] | None = None
        self._newest = Newest(self)
        self._newest.returned.connect(self.show_values)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_SETTLE_MS)
        self._later.timeout.connect(self._read)
        self.values: dict[str, QLabel] = {}
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(0)
        layout.setHorizontalSpacing(4)
        for column, role in enumerate((*MAPS, "instance")):
            name, value = QLabel(role), QLabel(_NOTHING)
            name.setEnabled(False)
            value.setAccessibleName(f"{role} under the cursor")
            layout.addWidget(name, 0, column)
            layout.addWidget(value, 1, column)
            layout.setColumnStretch(column, 1)
            self.values[role] = value
        self.setToolTip(
            "The maps (0 to 1) and the id of the instance under the cursor; – where "
            "there is none"
        )
        self._connections = Connections(self)
        self._connections.add(viewer.cursor.events.position, self._note)

    def _note(self, event: object = None) -> None:
        if not self._later.isActive() and self.isVisibleTo(self.window()):
            self._later.start()

    def _read(self) -> None:
        shown = self._prediction.prediction()
        if shown is None or self._viewer.dims.ndisplay != 2:
            self.show_values({})
            return
        world = self._viewer.cursor.position
        point = shown.voxel_at(world)
        if point is None:
            self.show_values({})
            return
        voxel = tuple(int(v) for v in np.round(point))
        labels = _instances_at(shown, world)
        here = (shown.key, voxel, id(labels[0]), labels[1])
        if here != self._at:
            self._at = here
            maps = dict(zip(MAPS, shown.maps, strict=True))
            self._newest.ask(read_values, maps, voxel, *labels)

    def show_values(self, values: Mapping[str, float]) -> None:
        """Show values by role; a role that is missing has none."""
        if not values:
            self._at = None
        for role, label in self.values.items():
            value = values.get(role)
            if role == "instance":
                text = _NOTHING if not value else f"{value:.0f}"
            else:
                text = _NOTHING if value is None else f"{value:.2f}"
            if label.text() != text:
                label.setText(text)


def read_values(
    maps: Mapping[str, Any],
    voxel: tuple[int, ...],
    instances: Any = None,
    voxel_of_instances: tuple[int, ...] | None = None,
) -> dict[str, float]:
    """Return each map at a voxel, 0 to 1, and the id of the instance there."""
    values = {role: float(np.asarray(data[voxel])) / 255 for role, data in maps.items()}
    if instances is not None and voxel_of_instances is not None:
        values["instance"] = float(np.asarray(instances[voxel_of_instances]))
    return values


def _instances_at(
    shown: ShownPrediction, world: Any
) -> tuple[Any, tuple[int, ...] | None]:
    """Return the instances shown at a place, and its voxel in them."""
    for role in ("instances in the box", "instances"):
        layer = shown.layers.get(role)
        if layer is None:
            continue
        point = np.round(layer.world_to_data(np.asarray(world, float)[-3:]))
        voxel = tuple(int(v) for v in point)
        if all(0 <= v < n for v, n in zip(voxel, layer.data.shape, strict=True)):
            return layer.data, voxel
    return None, None
