"""The Inspect dock: see the maps, move the thresholds, watch the instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QPushButton, QVBoxLayout, QWidget

from napari_volseg.config import InstancesConfig
from napari_volseg.retuning import Retuned
from napari_volseg.widgets.actions import open_dock, register_context_menu
from napari_volseg.widgets.applypart import ApplyPart
from napari_volseg.widgets.cursor import CursorValues
from napari_volseg.widgets.fitpart import FitPart
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.histograms import HistogramPart
from napari_volseg.widgets.layers import METADATA_KEY, placement
from napari_volseg.widgets.messages import (
    MessageLine,
    count_words,
    scrolled,
    wrapped_label,
)
from napari_volseg.widgets.newest import Newest
from napari_volseg.widgets.outputs import add_instances
from napari_volseg.widgets.plot import SizePlot
from napari_volseg.widgets.predictions import (
    PredictionCombo,
    ShownPrediction,
    shown_slice,
    view_box,
    view_slices,
)
from napari_volseg.widgets.profilepart import ProfilePart
from napari_volseg.widgets.results import Prediction
from napari_volseg.widgets.thresholds import ThresholdPanel
from napari_volseg.widgets.tuning import Tuning
from napari_volseg.widgets.viewpart import ViewPart

if TYPE_CHECKING:
    import napari

__all__ = ["InspectWidget"]

_SETTLE_MS = 40
_ARRIVAL_MS = 400
"""The instances of a prediction arrive a moment after its maps."""


class InspectWidget(QWidget):
    """Look at a prediction and tune its instances."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._tuning: Tuning | None = None
        self._seeds_are_lent = False
        self._make_widgets()
        self._lay_out()
        self._connect()
        register_context_menu()
        self._take_prediction()

    def _make_widgets(self) -> None:
        viewer = self._viewer
        self.prediction = PredictionCombo(viewer)
        self.prediction.setToolTip("The prediction whose maps and instances are shown")
        self.view = ViewPart(viewer, self.prediction)
        self.cursor_values = CursorValues(viewer, self.prediction)
        self.profile = ProfilePart(viewer, self.prediction)
        self.thresholds = ThresholdPanel()
        self.histograms = HistogramPart(viewer, self.prediction, self.thresholds)
        self.seeds = QCheckBox("Show the seeds")
        self.seeds.setToolTip("Show the seeds from which the instances grow")
        self.reset = QPushButton("Reset to model")
        self.reset.setToolTip("Take the thresholds that were fitted after training")
        self.fitting = FitPart(viewer, self.prediction)
        self.apply = ApplyPart(self.prediction)
        self.count = wrapped_label("")
        self.sizes = SizePlot(viewer)
        self._measuring = Newest(self)
        self.message = MessageLine()
        self.next = wrapped_label("")

    def _lay_out(self) -> None:
        page = scrolled(self)
        rows = narrow_form()
        add_row(rows, "Maps", self.prediction)
        page.addLayout(rows)
        self.body = QWidget()
        body = QVBoxLayout(self.body)
        body.setContentsMargins(0, 0, 0, 0)
        parts: tuple[QWidget, ...] = (
            self.view,
            self.cursor_values,
            self.profile,
            self.histograms,
            self.thresholds,
            self.seeds,
            self.reset,
            self.fitting,
            self.apply,
            self.count,
            self.sizes,
        )
        for part in parts:
            body.addWidget(part)
        for part in (self.body, self.message, self.next):
            page.addWidget(part)
        page.addStretch(1)

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
        self.thresholds.changed.connect(self._change_thresholds)
        self.seeds.toggled.connect(self._toggle_seeds)
        self.view.contours_changed.connect(self._outline_seeds)
        self.reset.clicked.connect(self._reset)
        self.fitting.fitted.connect(self._take_fitted)
        self.fitting.failed.connect(self.message.show_error)
        self.fitting.errors_wanted.connect(self._show_errors)
        self.apply.applied.connect(self._show_applied)
        self.apply.failed.connect(self.message.show_error)
        self._measuring.returned.connect(self._show_sizes)

    def _take_prediction(self) -> None:
        self._close_tuning()
        self.view.leave()
        shown = self.prediction.prediction()
        self.body.setEnabled(shown is not None)
        self.message.clear()
        self.histograms.refresh()
        self.fitting.forget()
        self.apply.check()
        if shown is None:
            self.count.clear()
            self.next.setText(
                "What next? Predict a volume in VolSeg › Predict, or open an HDF5 file "
                "with maps."
            )
            return
        self._set_thresholds(shown.thresholds())
        self.view.read(shown)
        self._arrival.start()
        self.next.setText(
            "What next? Move a threshold where instances are merged or split; correct "
            "what stays wrong in VolSeg › Review and train on."
        )

    def _begin(self) -> None:
        """Count the instances of a prediction, or make them when it has none."""
        shown = self.prediction.prediction()
        if shown is None:
            return
        self.view.read(shown)
        instances = shown.layers.get("instances")
        if isinstance(instances, Labels):
            self._measuring.ask(_sizes, instances.data)
        else:
            self._retune()

    def _set_thresholds(self, config: InstancesConfig) -> None:
        """Show thresholds everywhere, without making instances."""
        self.thresholds.set_value(config)
        for part in (self.profile, self.histograms, self.view):
            part.show_thresholds(config)
        self.fitting.use(config)
        self.apply.use(config)

    def _change_thresholds(self) -> None:
        config = self.thresholds.value()
        self.profile.show_thresholds(config)
        self.view.show_thresholds(config)
        self.fitting.use(config)
        self.apply.use(config)
        self._later.start()

    def _reset(self) -> None:
        shown = self.prediction.prediction()
        if shown is not None:
            self._set_thresholds(shown.model_thresholds())
            self._retune()

    def _take_fitted(self, config: InstancesConfig) -> None:
        self._set_thresholds(config)
        self._retune()

    def _show_errors(self, truth: Labels) -> None:
        """Compare the instances with a labels layer, in the Evaluate dock."""
        shown = self.prediction.prediction()
        layer = None if shown is None else shown.layers.get("instances")
        if layer is None:
            self.message.show_error(
                "there are no instances of the whole volume: press 'Apply to the "
                "prediction' first"
            )
            return
        dock = open_dock(self._viewer, "Evaluate")
        dock.set_pair(layer, truth)
        dock.start()

    def _show_applied(
        self, key: str, result: Prediction, config: InstancesConfig
    ) -> None:
        """Show the instances that a whole prediction has now."""
        shown = self.prediction.prediction()
        if shown is None or shown.key != key:
            return
        labels = self._update(shown, "instances", result.instances_ZYX, (0, 0, 0))
        labels.metadata[METADATA_KEY]["thresholds"] = config.model_dump()
        if result.table is not None:
            labels.features = result.table
        if "instances in the box" in shown.layers:
            self._viewer.layers.remove(shown.layers["instances in the box"])
        labels.visible = True
        self._measuring.ask(_sizes, result.instances_ZYX)
        self.view.read(shown)

    def _outline_seeds(self, is_contoured: bool) -> None:
        """Show outlines of the seeds as long as a preset wants them."""
        if is_contoured and not self.seeds.isChecked():
            self._seeds_are_lent = True
            self.seeds.setChecked(True)
        elif not is_contoured and self._seeds_are_lent:
            self._seeds_are_lent = False
            self.seeds.setChecked(False)
        shown = self.prediction.prediction()
        layer = None if shown is None else shown.layers.get("seeds")
        if layer is not None:
            layer.contour = int(is_contoured)
            layer.visible = self.seeds.isChecked()

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
            self._tuning.sliced.connect(self._show_slices)
            self._tuning.failed.connect(self.message.show_error)
            self.destroyed.connect(self._tuning.close)
        slices = view_slices(self._viewer, shown.layers["mask"], self._tuning.box)
        self._tuning.request(
            self.thresholds.value(), slices, seeds=self.seeds.isChecked()
        )

    def _show_slices(self, answer: Retuned) -> None:
        """Show the slice that is looked at; the others follow with the whole box."""
        shown = self.prediction.prediction()
        if shown is None or self._tuning is None or self._viewer.dims.ndisplay != 2:
            return
        is_whole = self._tuning.box.shape == shown.shape_ZYX
        layer = shown.layers.get("instances" if is_whole else "instances in the box")
        axis, place = shown_slice(self._viewer, shown.layers["mask"])
        place -= self._tuning.box.start[axis]
        if layer is None or not answer.box.start[axis] <= place < answer.box.stop[axis]:
            return
        if not isinstance(layer.data, np.ndarray) or not layer.data.flags.writeable:
            return
        part = list(answer.box.slices)
        part[axis] = slice(place, place + 1)
        inner = [slice(None)] * 3
        inner[axis] = slice(
            place - answer.box.start[axis], place - answer.box.start[axis] + 1
        )
        layer.data[tuple(part)] = answer.labels_ZYX[tuple(inner)]
        layer.refresh()

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
        if self.seeds.isChecked() and answer.seeds_ZYX.size:
            seeds = self._update(shown, "seeds", answer.seeds_ZYX, box.start)
            seeds.opacity = 1.0
            seeds.contour = int(self.view.is_contoured)
            seeds.visible = True
        self._measuring.ask(_sizes, answer.labels_ZYX)
        self.view.read(shown)

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
