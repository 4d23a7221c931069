"""The part of the Inspect dock that decides how a prediction is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils import DirectLabelColormap
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.config import InstancesConfig
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain
from napari_volseg.widgets.newest import Newest
from napari_volseg.widgets.outputs import MAPS, add_beside, make_instances, make_map
from napari_volseg.widgets.predictions import (
    PredictionCombo,
    ShownPrediction,
    view_box,
)
from napari_volseg.widgets.presets import PRESETS, Arrangement, Camera, arrange
from napari_volseg.widgets.viewers import grid_of

__all__ = ["ViewPart", "foreground"]

_SHOWN = (*MAPS, "instances")
_SPACE = "3D · "


class ViewPart(QWidget):
    """Presets of layers that are shown, a box for each, and a view from all sides."""

    contours_changed = Signal(bool)
    """A preset shows outlines, those of the seeds too; or no longer."""

    def __init__(self, viewer: Any, prediction: PredictionCombo) -> None:
        super().__init__()
        self._viewer = viewer
        self._prediction = prediction
        self._before: Arrangement | None = None
        self._camera: Camera | None = None
        self._flat: Arrangement | None = None
        self._config = InstancesConfig()
        self._newest = Newest(self)
        self._newest.returned.connect(self._show_space)
        self._redraw = QTimer(self)
        self._redraw.setSingleShot(True)
        self._redraw.setInterval(40)
        self._redraw.timeout.connect(self._follow_thresholds)
        self._make_widgets()
        self.preset.currentTextChanged.connect(self._choose)
        self.space.toggled.connect(self._toggle_space)
        for box in self.shown.values():
            box.clicked.connect(self._apply)

    def _make_widgets(self) -> None:
        self.preset = fit_narrow(QComboBox())
        self.preset.setMinimumContentsLength(6)
        for index, (name, preset) in enumerate(PRESETS.items()):
            self.preset.addItem(name)
            self.preset.setItemData(index, preset.help, Qt.ItemDataRole.ToolTipRole)
        self.preset.setToolTip(
            "How to look at the prediction; other layers are hidden meanwhile, and "
            "'as it was' brings them back"
        )
        self.space = QPushButton("3D")
        self.space.setCheckable(True)
        self.space.setMaximumWidth(40)
        self.space.setToolTip(
            "Look at the maps and instances around the view from all sides, in true "
            "proportions; again: back to the slice"
        )
        self.shown = {role: QCheckBox(role) for role in _SHOWN}
        for role, box in self.shown.items():
            box.setToolTip(f"Show the {role} of the prediction")
        line = QHBoxLayout()
        line.addWidget(self.preset, 1)
        line.addWidget(self.space)
        rows = narrow_form()
        add_row(rows, "View", line)
        checks = QGridLayout()
        for index, box in enumerate(self.shown.values()):
            checks.addWidget(box, index // 2, index % 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        layout.addLayout(checks)

    def leave(self) -> None:
        """Bring back what was shown before; the prediction changes."""
        self.space.setChecked(False)
        self.preset.setCurrentIndex(0)

    def read(self, shown: ShownPrediction) -> None:
        """Set the boxes to what is shown."""
        for role, box in self.shown.items():
            layer = shown.layers.get(role)
            box.setEnabled(layer is not None)
            box.setChecked(layer is not None and layer.visible)

    def show_thresholds(self, config: InstancesConfig) -> None:
        """Let the contour of the foreground follow the thresholds."""
        self._config = config
        if self.is_contoured:
            self._redraw.start()

    def _apply(self, *_: object) -> None:
        shown = self._prediction.prediction()
        if shown is not None:
            for role, box in self.shown.items():
                if role in shown.layers:
                    shown.layers[role].visible = box.isChecked()

    def _choose(self, name: str) -> None:
        shown = self._prediction.prediction()
        if self.preset.currentIndex() == 0 or shown is None:
            if self._before is not None:
                self._before.restore(self._viewer)
                self._hide_foreground(shown)
                self._viewer.reset_view()
            self._before = None
        else:
            self.space.setChecked(False)
            if self._before is None:
                self._before = Arrangement(self._viewer)
            else:
                self._before.restore(self._viewer)
            if self.is_contoured:
                self._update_foreground(shown)
            arrange(self._viewer, shown, name)
        self.contours_changed.emit(self.is_contoured)
        if shown is not None:
            self.read(shown)

    @property
    def is_contoured(self) -> bool:
        """Whether outlines are shown."""
        return PRESETS[self.preset.currentText()].is_contoured

    def _hide_foreground(self, shown: ShownPrediction | None) -> None:
        layer = None if shown is None else shown.layers.get("foreground")
        if layer is not None:
            layer.visible = False

    def _follow_thresholds(self) -> None:
        shown = self._prediction.prediction()
        if shown is not None and self.is_contoured:
            self._update_foreground(shown)

    def _update_foreground(self, shown: ShownPrediction) -> None:
        """Show where the maps pass the thresholds of an object; it is lazy."""
        data = foreground(shown.maps, self._config)
        layer = shown.layers.get("foreground")
        if layer is not None:
            layer.data = data
            return
        origin = {"prediction": shown.key, "image": shown.image}
        layer = make_instances(
            data,
            placement(shown.layers["mask"]),
            f"{shown.image} · ",
            origin | ({} if shown.model is None else {"model": shown.model}),
            role="foreground",
        )
        layer.colormap = DirectLabelColormap(
            color_dict={1: "white", None: "transparent"}
        )
        layer.contour = 1
        add_beside(self._viewer, layer)
        shown.layers["foreground"] = layer

    def _toggle_space(self, is_on: bool) -> None:
        shown = self._prediction.prediction()
        if not is_on:
            self._leave_space()
        elif shown is not None:
            box = view_box(self._viewer, shown.layers["mask"], shown.shape_ZYX)
            self.space.setText("…")
            self._newest.ask(_load_box, dict(shown.layers), box)

    def _show_space(self, loaded: tuple[Any, dict[str, Any]]) -> None:
        """Add what was read as layers in memory, and look at them from all sides."""
        self.space.setText("3D")
        shown = self._prediction.prediction()
        if shown is None or not self.space.isChecked():
            return
        box, arrays = loaded
        self._flat, self._camera = Arrangement(self._viewer), Camera(self._viewer)
        for layer in map(plain, self._viewer.layers):
            layer.visible = False
        place = placement(shown.layers["mask"])
        for role, data in arrays.items():
            if role in MAPS:
                layer = make_map(role, data, place, _SPACE, {}, start=box.start)
                layer.visible = self.shown[role].isChecked()
            else:
                layer = make_instances(data, place, _SPACE, {}, start=box.start)
                layer.opacity = 1.0
            layer.metadata[METADATA_KEY]["space"] = True
            add_beside(self._viewer, layer)
        grid_of(self._viewer).enabled = False
        self._viewer.dims.ndisplay = 3
        self._viewer.reset_view()

    def _leave_space(self) -> None:
        self._newest.forget()
        self.space.setText("3D")
        if self._flat is None or self._camera is None:
            return
        for layer in list(map(plain, self._viewer.layers)):
            origin = layer.metadata.get(METADATA_KEY, {})
            if origin.get("space") and not origin.get("edited"):
                self._viewer.layers.remove(layer)
        self._camera.restore(self._viewer)
        self._flat.restore(self._viewer)
        self._flat = self._camera = None


def foreground(maps: Any, config: InstancesConfig) -> Any:
    """Return where the maps pass the thresholds of an object: a lazy array of 0 and 1.

    Parameters
    ----------
    maps
        Mask, boundary and distance, uint8 (Z, Y, X), 255 being 1.
    """
    import dask.array  # costs half a second, which a dock has not

    mask, boundary, distance = (
        dask.array.asarray(each)  # type: ignore[no-untyped-call]
        for each in maps
    )
    return (
        (mask > round(255 * config.mask, 6))
        & (boundary < round(255 * config.boundary, 6))
        & (distance >= round(255 * config.distance, 6))
    ).astype(np.uint8)


def _load_box(layers: dict[str, Any], box: Any) -> tuple[Any, dict[str, Any]]:
    """Read the maps and instances of a box; call it in a thread."""
    arrays = {
        role: np.asarray(layers[role].data[box.slices])
        for role in MAPS
        if role in layers
    }
    shape = layers["mask"].data.shape
    labels = layers.get("instances")
    if isinstance(labels, Labels) and tuple(labels.data.shape) == tuple(shape):
        arrays["instances"] = np.asarray(labels.data[box.slices])
    return box, arrays
