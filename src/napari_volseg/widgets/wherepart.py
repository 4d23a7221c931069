"""The part of the Predict dock that says where to predict."""

from __future__ import annotations

from typing import Any

from napari.layers import Image, Shapes
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QSpinBox, QVBoxLayout, QWidget

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.widgets.combos import LayerCombo, fit_narrow
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.fields import ignore_stray_wheel
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.parts import (
    Part,
    drawn_box,
    image_parts,
    seen_box,
    takes_channels,
)
from napari_volseg.widgets.viewers import camera_of

__all__ = ["WherePart"]

_SETTLE_MS = 300

_WHERE = {
    "whole layer": "All voxels of the layer, at full resolution",
    "selection box": "The box around what is drawn in a Shapes layer",
    "current view": "What the canvas shows, in the slices around this one",
}
_ALONG = {
    "the one shown": "one",
    "each, one after the other": "each",
}


class WherePart(QWidget):
    """Whole layer, a drawn box or the view; and of channels or times, which."""

    changed = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self.where = fit_narrow(QComboBox())
        self.where.addItems(list(_WHERE))
        self.where.setToolTip(
            "Where to predict: the whole layer, the box around what is drawn in a "
            "Shapes layer, or what the canvas shows"
        )
        self.region = LayerCombo(viewer, (Shapes,))
        self.region.setToolTip("The Shapes layer with a rectangle around the box")
        self.slices = QSpinBox()
        self.slices.setRange(0, 10_000)
        self.slices.setValue(16)
        self.slices.setPrefix("± ")
        self.slices.setSuffix(" slices")
        self.slices.setToolTip(
            "How many slices before and after the one that is shown or drawn in"
        )
        ignore_stray_wheel(self.slices)
        self.along = fit_narrow(QComboBox())
        self.along.addItems(list(_ALONG))
        self.along.setToolTip(
            "The layer has more channels or time points than the model takes: predict "
            "the one that is shown, or each of them"
        )
        self._rows: QFormLayout = narrow_form()
        add_row(self._rows, "Where", self.where)
        add_row(self._rows, "Box", self.region)
        add_row(self._rows, "Depth", self.slices)
        add_row(self._rows, "Time, channel", self.along)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(self._rows)
        self._watched = Connections(self)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_SETTLE_MS)
        self._later.timeout.connect(self.changed)
        self.where.currentIndexChanged.connect(self._report)
        self.along.currentIndexChanged.connect(self._report)
        self.region.layer_changed.connect(self._report)
        self.slices.valueChanged.connect(self._report)
        self.show_for(None, 1)

    def show_for(self, layer: Image | None, in_channels: int) -> None:
        """Show the choices that a layer and a model leave."""
        index = self.where.currentIndex()
        self._rows.setRowVisible(self.region, index == 1)
        self._rows.setRowVisible(self.slices, index > 0)
        data = None if layer is None else layer.data
        if layer is not None and layer.multiscale:
            data = layer.data[0]
        self._rows.setRowVisible(
            self.along,
            layer is not None
            and in_channels == 1
            and getattr(data, "ndim", 3) == 4
            and not layer.rgb
            and not takes_channels(layer, in_channels),
        )

    def parts(self, layer: Image, in_channels: int) -> list[Part]:
        """Return what to predict of a layer.

        Raises
        ------
        DataError
            If nothing is drawn or seen of it, or the model takes other channels.
        """
        along = _ALONG[self.along.currentText()]
        shown = round(float(plain(layer).world_to_data(self._viewer.dims.point)[0]))
        return image_parts(layer, in_channels, along, shown, self._box(layer))

    def _box(self, layer: Image) -> Box | None:
        depth = int(self.slices.value())
        if self.where.currentIndex() == 0:
            return None
        if self.where.currentIndex() == 2:
            return seen_box(self._viewer, layer, depth)
        region = self.region.layer()
        if not isinstance(region, Shapes):
            raise DataError(
                "there is no Shapes layer: add one and draw a rectangle around the box"
            )
        return drawn_box(region, layer, depth)

    def _report(self, *_: object) -> None:
        self._watch()
        self.changed.emit()

    def _watch(self) -> None:
        """Look again when something else is drawn, or seen."""
        self._watched.close()
        region, index = self.region.layer(), self.where.currentIndex()
        if index == 1 and region is not None:
            self._watched.add(region.events.data, self._settle)
        if index == 2:
            camera = camera_of(self._viewer).events
            steps = self._viewer.dims.events.current_step
            for emitter in (camera.center, camera.zoom, steps):
                self._watched.add(emitter, self._settle)

    def _settle(self, event: object = None) -> None:
        self._later.start()
