"""The Evaluate dock: instances against the truth, error by error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Labels, Shapes
from numpy.typing import NDArray
from qtpy.QtWidgets import QComboBox, QPushButton, QSpinBox, QWidget

from napari_volseg.errors import DataError
from napari_volseg.review import Helper
from napari_volseg.volume import VoxelSize
from napari_volseg.widgets.actions import register_context_menu
from napari_volseg.widgets.combos import LayerCombo, fit_narrow
from napari_volseg.widgets.fields import ignore_stray_wheel
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.instancetable import Column, InstanceTable
from napari_volseg.widgets.iouplot import IouPlot
from napari_volseg.widgets.layers import (
    METADATA_KEY,
    Placement,
    check_aligned,
    labels_array,
    placement,
    plain,
    voxel_size,
)
from napari_volseg.widgets.messages import (
    MessageLine,
    explain,
    primary_button,
    scrolled,
    wrapped_label,
)
from napari_volseg.widgets.outputs import add_layer
from napari_volseg.widgets.regions import Region, capture_region
from napari_volseg.widgets.threads import in_thread
from napari_volseg.widgets.viewers import look_at

if TYPE_CHECKING:
    import napari

__all__ = ["EvaluateWidget"]

_KINDS = {
    "missed": ("An object of the truth that no instance holds half of", "#e66100"),
    "extra": ("An instance where the truth has none", "#1a85ff"),
    "split": ("An object that several instances share", "#ffc20a"),
    "merged": ("An instance that holds several objects", "#d41159"),
    "inexact": ("An object whose instance overlaps it too little", "#40b0a6"),
}
"""Colours that colour-blind people tell apart."""

_COLUMNS = (
    Column("row", "#", "Number of the error", width=34),
    Column(
        "kind",
        "Error",
        "; ".join(f"{k}: {t}" for k, (t, _) in _KINDS.items()),
        width=56,
    ),
    Column("label", "Id", "Id in the truth, or in the prediction", width=42),
    Column("side", "In", "Which of the two layers the id is of", width=74),
    Column("voxels", "Voxels", "Its size", lambda v: f"{int(v):,}", 62),
    Column("iou", "IoU", "Best overlap with the other side", lambda v: f"{v:.2f}", 44),
    Column("partners", "With", "Ids of the other side", width=90),
)
_SHOWN = {
    "f1_50": "F1",
    "precision_50": "precision",
    "recall_50": "recall",
    "ap_50": "accuracy",
    "ap": "mean accuracy",
    "pq_50": "panoptic quality",
    "adapted_rand_error": "Rand error",
    "voi_split": "VOI split",
    "voi_merge": "VOI merge",
}


class _Task:
    """One comparison: its layers, and whether anybody still waits for it."""

    def __init__(self, prediction: Labels, truth: Labels) -> None:
        self.pair = prediction, truth
        self.place = placement(prediction)
        self.name = str(prediction.name)
        self.is_cancelled = False


class EvaluateWidget(QWidget):
    """Compare two labels layers."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._task: _Task | None = None
        self._errors: list[dict[str, Any]] = []
        self._pair: tuple[ref[Labels], ref[Labels]] | None = None
        self._helper = Helper()
        self._make_widgets()
        self._lay_out()
        self._connect()
        register_context_menu()
        self._show_errors([])
        self._tidy()

    def _make_widgets(self) -> None:
        self.prediction = LayerCombo(self._viewer, (Labels,))
        self.prediction.setToolTip("The instances to judge")
        self.truth = LayerCombo(self._viewer, (Labels,))
        self.truth.setToolTip("The labels that are right")
        self.where = fit_narrow(QComboBox())
        self.where.addItem("everywhere", False)
        self.where.addItem("inside a region", True)
        self.where.setToolTip("Where the truth is annotated; the rest does not count")
        self.region = LayerCombo(self._viewer, (Shapes, Labels))
        self.region.setToolTip("The layer whose shapes or painted voxels count")
        self.smallest = QSpinBox()
        self.smallest.setRange(0, 10**9)
        self.smallest.setSuffix(" voxels")
        self.smallest.setToolTip("Leave out what is smaller, in both layers")
        ignore_stray_wheel(self.smallest)
        self.evaluate = primary_button("Evaluate")
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("End the comparison")
        self.scores = wrapped_label("")
        self.curves = IouPlot(self._viewer)
        self.counts = wrapped_label("")
        self.kind = fit_narrow(QComboBox())
        self.kind.setToolTip("Which errors are listed")
        self.table = InstanceTable(_COLUMNS)
        self.table.setToolTip("Click a line to go to the error")
        self.table.setAccessibleName("Errors")
        self.message = MessageLine()
        self.next = wrapped_label("")

    def _lay_out(self) -> None:
        page = scrolled(self)
        self.rows = narrow_form()
        add_row(self.rows, "Prediction", self.prediction)
        add_row(self.rows, "Truth", self.truth)
        add_row(self.rows, "Annotated", self.where)
        add_row(self.rows, "Region", self.region)
        add_row(self.rows, "Smallest", self.smallest)
        page.addLayout(self.rows)
        for part in (self.evaluate, self.cancel, self.scores, self.curves, self.counts):
            page.addWidget(part)
        self.filter = narrow_form()
        add_row(self.filter, "Show", self.kind)
        page.addLayout(self.filter)
        page.addWidget(self.table, 1)
        page.addWidget(self.message)
        page.addWidget(self.next)

    def _connect(self) -> None:
        self.evaluate.clicked.connect(self.start)
        self.cancel.clicked.connect(self._cancel)
        self.kind.currentIndexChanged.connect(self._filter)
        self.table.chosen_changed.connect(self._jump)
        for combo in (self.prediction, self.truth, self.region):
            combo.layer_changed.connect(self._tidy)
        self.where.currentIndexChanged.connect(self._tidy)
        self.destroyed.connect(self._helper.close)

    def set_pair(self, prediction: Any, truth: Any) -> None:
        """Choose what to compare."""
        self.prediction.set_layer(prediction)
        self.truth.set_layer(truth)

    def start(self) -> None:
        """Compare the chosen layers; does nothing while that runs."""
        if self._is_running:
            return
        try:
            task, work = self._capture()
        except DataError as error:
            self.message.show_error(str(error))
            return
        self._task = task
        self.message.show_text("Comparing…")
        in_thread(work, partial(self._take, task), partial(self._lose, task), self)
        self._tidy()

    @property
    def _is_running(self) -> bool:
        return self._task is not None

    def _capture(self) -> tuple[_Task, Callable[[], Any]]:
        """Return a comparison of the layers, and what does it in a thread.

        Raises
        ------
        DataError
            If the layers cannot be compared.
        """
        pred, truth = plain(self.prediction.layer()), plain(self.truth.layer())
        because = self._obstacle()
        if because:
            raise DataError(because)
        data = labels_array(pred), labels_array(truth)
        check_aligned(pred, truth, data[0].shape)
        shape = data[0].shape
        region = None
        if self.where.currentData():
            region = capture_region(self.region.layer(), pred, shape)
        task = _Task(pred, truth)
        work = partial(
            _compare,
            self._helper,
            data,
            region,
            voxel_size(truth),
            self.smallest.value(),
            lambda: task.is_cancelled,
        )
        return task, work

    def _obstacle(self) -> str:
        pred, truth = self.prediction.layer(), self.truth.layer()
        if pred is None or truth is None:
            return "there are no labels to compare: open or predict some"
        if plain(pred) is plain(truth):
            return "both are the same layer: choose the truth"
        if self.where.currentData() and self.region.layer() is None:
            return "there is no region layer: draw around what is annotated"
        return ""

    def _cancel(self) -> None:
        if self._task is None:
            return
        self._task.is_cancelled = True
        self._task = None
        self.message.show_text("The comparison was cancelled.")
        self._tidy()

    def _lose(self, task: _Task, message: str) -> None:
        if task is not self._task:
            return
        self._task = None
        self.message.show_error(message)
        self._tidy()

    def _take(
        self, task: _Task, answer: tuple[NDArray[np.uint8], dict[str, Any]]
    ) -> None:
        if task is not self._task:
            return
        self._task = None
        self._pair = ref(task.pair[0]), ref(task.pair[1])
        kinds_ZYX, values = answer
        self.message.clear()
        metrics = values["metrics"]
        words = [f"{text} {metrics[key]:.3f}" for key, text in _SHOWN.items()]
        self.scores.setText(
            f"{metrics['n_pred']:.0f} instances, {metrics['n_true']:.0f} true objects\n"
            + " · ".join(words)
        )
        self.curves.show_curves(values["curves"])
        self._add_layer(kinds_ZYX, task.place, task.name)
        self._show_errors(values["errors"])
        self._tidy()

    def _add_layer(
        self, kinds_ZYX: NDArray[np.uint8], place: Placement, name: str
    ) -> None:
        """Show the errors by colour, in place of those shown before."""
        from napari.utils.colormaps import DirectLabelColormap

        for layer in [*map(plain, self._viewer.layers)]:
            origin = layer.metadata.get(METADATA_KEY)
            if isinstance(origin, dict) and origin.get("role") == "errors":
                self._viewer.layers.remove(layer)
        colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
        colours |= {i + 1: colour for i, (_, colour) in enumerate(_KINDS.values())}
        layer = Labels(
            kinds_ZYX,
            name=f"{name} · errors",
            colormap=DirectLabelColormap(color_dict=colours),
            opacity=0.8,
            metadata={METADATA_KEY: {"role": "errors", "helper": True}},
            **place.layer_options(),
        )
        layer.editable = False
        add_layer(self._viewer, layer)

    def _show_errors(self, errors: list[dict[str, Any]]) -> None:
        self._errors = errors
        counts = {kind: sum(e["kind"] == kind for e in errors) for kind in _KINDS}
        self.counts.setText(
            " · ".join(
                f'<span style="color:{colour}">■</span>&nbsp;{counts[kind]}&nbsp;{kind}'
                for kind, (_, colour) in _KINDS.items()
            )
        )
        self.kind.blockSignals(True)
        self.kind.clear()
        self.kind.addItem(f"all errors ({len(errors)})", "")
        for kind, count in counts.items():
            self.kind.addItem(f"{kind} ({count})", kind)
        self.kind.blockSignals(False)
        self._filter()

    def _filter(self, *_: object) -> None:
        errors, kind = self._errors, self.kind.currentData()
        table = {
            "row": np.arange(1, len(errors) + 1),
            "kind": np.array([e["kind"] for e in errors], "<U8"),
            "label": np.array([e["label"] for e in errors], np.int64),
            "side": np.array(
                ["truth" if e["truth"] else "prediction" for e in errors], "<U10"
            ),
            "voxels": np.array([e["voxels"] for e in errors], np.int64),
            "iou": np.array([e["iou"] for e in errors], float),
            "partners": np.array(
                [", ".join(map(str, e["partners"][:9])) for e in errors], "<U99"
            ),
        }
        self.table.set_table(table, (table["kind"] == kind) if kind else None)

    def _jump(self) -> None:
        """Go to the error that was chosen and select its label."""
        rows = self.table.chosen()
        if not rows or self._pair is None:
            return
        error = self._errors[rows[-1] - 1]
        layer = self._pair[error["truth"]]()
        if layer is not None and layer in self._viewer.layers:
            z, y, x = error["position"]
            look_at(self._viewer, layer, (z, y, x))
            layer.selected_label = error["label"]

    def _tidy(self, *_: object) -> None:
        because = "A comparison is running" * self._is_running or self._obstacle()
        explain(
            self.evaluate,
            "Score the instances and list every error; nothing is changed",
            because,
        )
        self.cancel.setVisible(self._is_running)
        for part, is_shown in (
            (self.region, bool(self.where.currentData())),
            (self.kind, bool(self._errors)),
        ):
            rows = self.rows if part is self.region else self.filter
            rows.setRowVisible(part, is_shown)
        has_result = bool(self.scores.text())
        for widget in (self.scores, self.curves, self.counts, self.table):
            widget.setVisible(has_result)
        if not has_result:
            self.next.setText(
                "What next? Choose a prediction and labels that are right, and press "
                "Evaluate."
            )
        else:
            self.next.setText(
                "What next? Click an error to go there; correct it in VolSeg › Review."
            )


def _compare(
    helper: Helper,
    data: tuple[Any, Any],
    region: Region | None,
    voxels: VoxelSize,
    min_size: int,
    is_cancelled: Callable[[], bool],
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Read both layers and let the helper compare them; call it in a thread."""
    prediction, truth = (np.asarray(each) for each in data)
    for name, labels in (("prediction", prediction), ("truth", truth)):
        if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
            raise DataError(f"the {name} has negative ids: ids are above zero")
    arrays = {"prediction": prediction, "truth": truth}
    arrays = {
        k: a.astype(np.uint8) if a.dtype == bool else a for k, a in arrays.items()
    }
    if region is not None:
        arrays["annotated"] = region.mask(truth.shape, False).astype(np.uint8)
    options = {"voxel_size": voxels, "min_size": min_size}
    results, values = helper.ask("evaluate", arrays, options, is_cancelled)
    return results["kinds"], values
