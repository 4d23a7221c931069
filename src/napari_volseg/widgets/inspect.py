"""The Inspect dock: see the maps, move the thresholds, watch the instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Layer
from napari.qt.threading import create_worker
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.retuning import Retuned
from napari_volseg.widgets.actions import register_context_menu
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.layers import METADATA_KEY, placement, plain
from napari_volseg.widgets.messages import (
    MessageLine,
    count_words,
    scrolled,
    wrapped_label,
)
from napari_volseg.widgets.outputs import MAPS, add_instances
from napari_volseg.widgets.plot import ProfilePlot, SizePlot
from napari_volseg.widgets.predictions import (
    PredictionCombo,
    ShownPrediction,
    view_box,
)
from napari_volseg.widgets.profiles import Profile, Profiler, axis_through
from napari_volseg.widgets.thresholds import ThresholdPanel
from napari_volseg.widgets.tuning import Tuning
from napari_volseg.widgets.viewers import grid_of

if TYPE_CHECKING:
    import napari

__all__ = ["InspectWidget"]

LINE_NAME = "volseg: profile line"
_SHOWN = (*MAPS, "instances")
_PROFILES = (
    "off",
    "along a line",
    "z at the cursor",
    "y at the cursor",
    "x at the cursor",
)
_SETTLE_MS = 40
_ARRIVAL_MS = 400
"""The instances of a prediction arrive a moment after its maps."""


class InspectWidget(QWidget):
    """Look at a prediction and tune its instances."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._tuning: Tuning | None = None
        self._overlaid: list[tuple[Layer, bool]] = []
        self._connections = Connections(self)
        self._line_connections = Connections(self)
        self._make_widgets()
        self._lay_out()
        self._connect()
        register_context_menu()
        self._take_prediction()

    def _make_widgets(self) -> None:
        viewer = self._viewer
        self.prediction = PredictionCombo(viewer)
        self.prediction.setToolTip("The prediction whose maps and instances are shown")
        self.shown = {role: QCheckBox(role) for role in _SHOWN}
        for role, box in self.shown.items():
            box.setToolTip(f"Show the {role} of the prediction")
        self.side_by_side = QPushButton("Side by side")
        self.side_by_side.setCheckable(True)
        self.side_by_side.setToolTip(
            "Show the maps and instances beside each other, and hide other layers"
        )
        self.profile = fit_narrow(QComboBox())
        self.profile.addItems(_PROFILES)
        self.profile.setToolTip(
            "Plot the three maps along a line, or through the cursor"
        )
        self.profile_plot = ProfilePlot(viewer)
        self.profiler = Profiler(self)
        self.thresholds = ThresholdPanel()
        self.seeds = QCheckBox("Show the seeds")
        self.seeds.setToolTip("Show the seeds from which the instances grow")
        self.reset = QPushButton("Reset to model")
        self.reset.setToolTip("Take the thresholds that were fitted after training")
        self.count = wrapped_label("")
        self.sizes = SizePlot(viewer)
        self.message = MessageLine()
        self.next = wrapped_label("")

    def _lay_out(self) -> None:
        page = scrolled(self)
        rows = narrow_form()
        add_row(rows, "Maps", self.prediction)
        page.addLayout(rows)
        self.body = QWidget()
        checks = QGridLayout()
        for index, box in enumerate(self.shown.values()):
            checks.addWidget(box, index // 2, index % 2)
        checks.addWidget(self.side_by_side, 2, 0, 1, 2)
        body = QVBoxLayout(self.body)
        body.setContentsMargins(0, 0, 0, 0)
        body.addLayout(checks)
        profile = narrow_form()
        add_row(profile, "Profile", self.profile)
        body.addLayout(profile)
        parts: tuple[QWidget, ...] = (
            self.profile_plot,
            self.thresholds,
            self.seeds,
            self.reset,
            self.count,
            self.sizes,
        )
        for part in parts:
            body.addWidget(part)
        for part in (self.body, self.message, self.next):
            page.addWidget(part)
        page.addStretch(1)
        self.profile_plot.hide()

    def _connect(self) -> None:
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_SETTLE_MS)
        self._later.timeout.connect(self._retune)
        self._arrival = QTimer(self)
        self._arrival.setSingleShot(True)
        self._arrival.setInterval(_ARRIVAL_MS)
        self._arrival.timeout.connect(self._begin)
        self.prediction.prediction_changed.connect(self._take_prediction)
        for box in self.shown.values():
            box.clicked.connect(self._apply_shown)
        self.side_by_side.toggled.connect(self._arrange)
        self.profile.currentIndexChanged.connect(self._choose_profile)
        self.profiler.profiled.connect(self._show_profile)
        self.thresholds.changed.connect(self._later.start)
        self.seeds.toggled.connect(self._toggle_seeds)
        self.reset.clicked.connect(self._reset)

    def _take_prediction(self) -> None:
        self._close_tuning()
        self.side_by_side.setChecked(False)
        shown = self.prediction.prediction()
        self.body.setEnabled(shown is not None)
        self.message.clear()
        if shown is None:
            self.count.clear()
            self.next.setText(
                "What next? Predict a volume in VolSeg › Predict, or open an HDF5 file "
                "with maps."
            )
            return
        self.thresholds.set_value(shown.model_thresholds())
        self._read_shown(shown)
        self._arrival.start()
        self.next.setText(
            "What next? Move a threshold where instances are merged or split; paint "
            "what stays wrong and train on."
        )

    def _begin(self) -> None:
        """Count the instances of a prediction, or make them when it has none."""
        shown = self.prediction.prediction()
        if shown is None:
            return
        self._read_shown(shown)
        instances = shown.layers.get("instances")
        if isinstance(instances, Labels):
            self._measure(instances.data)
        else:
            self._retune()

    def _read_shown(self, shown: ShownPrediction) -> None:
        for role, box in self.shown.items():
            layer = shown.layers.get(role)
            box.setEnabled(layer is not None)
            box.setChecked(layer is not None and layer.visible)

    def _apply_shown(self, *_: object) -> None:
        shown = self.prediction.prediction()
        if shown is not None:
            for role, box in self.shown.items():
                if role in shown.layers:
                    shown.layers[role].visible = box.isChecked()

    def _arrange(self, is_side_by_side: bool) -> None:
        """Show only the maps and instances, beside each other; or all as before."""
        grid = grid_of(self._viewer)
        shown = self.prediction.prediction()
        for layer, was_visible in self._overlaid:
            layer.visible = was_visible
        self._overlaid.clear()
        if is_side_by_side and shown is not None:
            ours = {id(shown.layers[role]) for role in _SHOWN if role in shown.layers}
            for layer in map(plain, self._viewer.layers):
                self._overlaid.append((layer, bool(layer.visible)))
                layer.visible = id(layer) in ours
        grid.enabled = is_side_by_side and shown is not None
        self._viewer.reset_view()
        if shown is not None:
            self._read_shown(shown)

    def _choose_profile(self, index: int) -> None:
        self._line_connections.close()
        self.profile_plot.setVisible(index > 0)
        if index == 1:
            self._add_line()
        elif index > 1:
            self._line_connections.add(
                self._viewer.cursor.events.position, self._profile_cursor
            )
            self._profile_cursor()

    def _add_line(self) -> None:
        shown = self.prediction.prediction()
        if shown is None:
            return
        layer = next(
            (each for each in self._viewer.layers if each.name == LINE_NAME), None
        )
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
        self._line_connections.add(plain(layer).events.data, self._profile_line)
        self._profile_line()

    def _profile_line(self, event: object = None) -> None:
        layer = next(
            (each for each in self._viewer.layers if each.name == LINE_NAME), None
        )
        if layer is not None and len(layer.data):
            ends = np.asarray(layer.data[-1], float)
            self._profile_between(ends[0], ends[-1])

    def _profile_cursor(self, event: object = None) -> None:
        shown = self.prediction.prediction()
        if shown is None:
            return
        world = np.asarray(self._viewer.cursor.position, float)[-3:]
        point = np.asarray(shown.layers["mask"].world_to_data(world), float)
        shape = np.array(shown.shape_ZYX)
        if ((point >= -0.5) & (point < shape - 0.5)).all():
            axis = self.profile.currentIndex() - 2
            self._profile_between(*axis_through(point, axis, shape))

    def _profile_between(
        self, start: NDArray[np.float64], stop: NDArray[np.float64]
    ) -> None:
        shown = self.prediction.prediction()
        if shown is not None:
            maps = dict(zip(MAPS, shown.maps, strict=True))
            scale = np.array(shown.layers["mask"].scale, float)
            self.profiler.ask(maps, start, stop, scale)

    def _show_profile(self, profile: Profile) -> None:
        shown = self.prediction.prediction()
        if shown is not None:
            unit = f"{shown.layers['mask'].units[-1]:~}" or "voxels"
            self.profile_plot.show_profile(profile.positions, profile.values, unit)

    def _reset(self) -> None:
        shown = self.prediction.prediction()
        if shown is not None:
            self.thresholds.set_value(shown.model_thresholds())
            self._retune()

    def _toggle_seeds(self, is_shown: bool) -> None:
        shown = self.prediction.prediction()
        layer = None if shown is None else shown.layers.get("seeds")
        if layer is not None:
            layer.visible = is_shown
        if is_shown:
            self._retune()

    def _retune(self) -> None:
        shown = self.prediction.prediction()
        if shown is None:
            return
        box = view_box(self._viewer, shown.layers["mask"], shown.shape_ZYX)
        if self._tuning is None or not _covers(self._tuning.box, box):
            self._close_tuning()
            self._tuning = Tuning(shown.maps, box, self)
            self._tuning.retuned.connect(self._show_retuned)
            self._tuning.failed.connect(self.message.show_error)
            self.destroyed.connect(self._tuning.close)
        self._tuning.request(self.thresholds.value())

    def _show_retuned(self, answer: Retuned) -> None:
        shown = self.prediction.prediction()
        if shown is None or self._tuning is None:
            return
        box = self._tuning.box
        is_whole = box.shape == shown.shape_ZYX
        role = "instances" if is_whole else "instances in the box"
        labels = self._update(shown, role, answer.labels_ZYX, box.start)
        labels.metadata[METADATA_KEY]["thresholds"] = (
            self.thresholds.value().model_dump()
        )
        if self.seeds.isChecked():
            seeds = self._update(shown, "seeds", answer.seeds_ZYX, box.start)
            seeds.opacity = 1.0
            seeds.visible = True
        self._measure(answer.labels_ZYX)
        self._read_shown(shown)

    def _update(
        self, shown: ShownPrediction, role: str, data: Any, start: tuple[int, int, int]
    ) -> Any:
        """Put labels into our layer of that role, or a new one if there is none.

        A layer that the user painted on is never ours again.
        """
        place = placement(shown.layers["mask"])
        layer = shown.layers.get(role)
        if layer is None:
            origin = {"prediction": shown.key, "image": shown.image}
            if shown.model is not None:
                origin["model"] = shown.model
            prefix = f"{shown.image} · "
            layer = add_instances(
                self._viewer, data, place, prefix, origin, role=role, start=start
            )
            shown.layers[role] = layer
            return layer
        layer.data = data
        translate = place.layer_options(start)["translate"]
        if not np.allclose(layer.translate, translate):
            layer.translate = translate
        return layer

    def _measure(self, labels_ZYX: Any) -> None:
        worker = create_worker(
            _sizes, labels_ZYX, _start_thread=False, _ignore_errors=True
        )
        worker.returned.connect(self._show_sizes)
        worker.start()

    def _show_sizes(self, sizes: NDArray[np.int64]) -> None:
        words = count_words(len(sizes), "instance")
        if len(sizes):
            words += f" · {np.median(sizes):.0f} voxels at the median"
        self.count.setText(words)
        self.sizes.show_sizes(sizes)

    def _close_tuning(self) -> None:
        if self._tuning is not None:
            self._tuning.close()
            self._tuning.deleteLater()
            self._tuning = None


def _sizes(labels_ZYX: Any) -> NDArray[np.int64]:
    """Return the sizes of the instances; call it in a thread."""
    counts = np.zeros(0, np.int64)
    for z in range(labels_ZYX.shape[0]):
        plane = np.bincount(np.asarray(labels_ZYX[z]).ravel(), minlength=counts.size)
        plane[: counts.size] += counts
        counts = plane
    sizes: NDArray[np.int64] = counts[1:][counts[1:] > 0]
    return sizes


def _covers(old: Any, new: Any) -> bool:
    """Return whether a loaded box still holds the middle of the view."""
    middle = [(a + b) // 2 for a, b in zip(new.start, new.stop, strict=True)]
    return old.shape == new.shape and all(
        a + (b - a) // 4 <= m <= b - (b - a) // 4 or old.start == new.start
        for a, m, b in zip(old.start, middle, old.stop, strict=True)
    )
