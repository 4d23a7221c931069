"""The part of the Inspect dock that plots the maps along a line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_volseg.config import InstancesConfig
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain
from napari_volseg.widgets.newest import Newest
from napari_volseg.widgets.outputs import MAPS
from napari_volseg.widgets.plot import ProfilePlot
from napari_volseg.widgets.predictions import PredictionCombo
from napari_volseg.widgets.profiles import Profile, axis_through, sample_profile

__all__ = ["LINE_NAME", "ProfilePart"]

LINE_NAME = "volseg: profile line"
_CHOICES = (
    "off",
    "along a line",
    "z at the cursor",
    "y at the cursor",
    "x at the cursor",
)


class ProfilePart(QWidget):
    """Choose a line, see mask, boundary and distance along it with the thresholds."""

    def __init__(self, viewer: Any, prediction: PredictionCombo) -> None:
        super().__init__()
        self._viewer = viewer
        self._prediction = prediction
        self._connections = Connections(self)
        self.choice = fit_narrow(QComboBox())
        self.choice.addItems(_CHOICES)
        self.choice.setToolTip(
            "Plot the three maps along a line, or through the cursor"
        )
        self.plot = ProfilePlot(viewer)
        self._newest = Newest(self)
        rows = narrow_form()
        add_row(rows, "Profile", self.choice)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        layout.addWidget(self.plot)
        self.plot.hide()
        self.choice.currentIndexChanged.connect(self._choose)
        self._newest.returned.connect(self._show)

    def show_thresholds(self, config: InstancesConfig) -> None:
        """Draw the thresholds into the plot."""
        self.plot.show_thresholds(config)

    def _choose(self, index: int) -> None:
        self._connections.close()
        self.plot.setVisible(index > 0)
        if index == 1:
            self._add_line()
        elif index > 1:
            self._connections.add(
                self._viewer.cursor.events.position, self._follow_cursor
            )
            self._follow_cursor()

    def _line(self) -> Any:
        layers = (each for each in self._viewer.layers if each.name == LINE_NAME)
        return next(layers, None)

    def _add_line(self) -> None:
        shown = self._prediction.prediction()
        if shown is None:
            return
        layer = self._line()
        if layer is None:
            layer = self._viewer.add_shapes(
                ndim=3,
                name=LINE_NAME,
                edge_color="white",
                edge_width=1,
                metadata={METADATA_KEY: {"role": "line"}},
                **placement(shown.layers["mask"]).layer_options(),
            )
            layer.mode = "add_line"
        self._connections.add(plain(layer).events.data, self._follow_line)
        self._follow_line()

    def _follow_line(self, event: object = None) -> None:
        layer = self._line()
        if layer is not None and len(layer.data):
            ends = np.asarray(layer.data[-1], float)
            self._ask(ends[0], ends[-1])

    def _follow_cursor(self, event: object = None) -> None:
        shown = self._prediction.prediction()
        if shown is None:
            return
        point = shown.voxel_at(self._viewer.cursor.position)
        if point is not None:
            axis = self.choice.currentIndex() - 2
            self._ask(*axis_through(point, axis, np.array(shown.shape_ZYX)))

    def _ask(self, start: NDArray[np.float64], stop: NDArray[np.float64]) -> None:
        shown = self._prediction.prediction()
        if shown is not None:
            maps = dict(zip(MAPS, shown.maps, strict=True))
            scale = np.array(shown.layers["mask"].scale, float)
            self._newest.ask(sample_profile, maps, start, stop, scale)

    def _show(self, profile: Profile) -> None:
        shown = self._prediction.prediction()
        if shown is not None:
            unit = f"{shown.layers['mask'].units[-1]:~}" or "voxels"
            self.plot.show_profile(profile.positions, profile.values, unit)
