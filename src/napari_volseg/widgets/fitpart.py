"""The part of the Inspect dock that fits the thresholds to labels."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyqtgraph as pg
from napari.layers import Labels
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QComboBox, QPushButton, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.volume import AnnotationRule
from napari_volseg.widgets.combos import LayerCombo, fit_narrow
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.helper import Cancelled, ask
from napari_volseg.widgets.layers import check_aligned, labels_array
from napari_volseg.widgets.messages import explain, sentence, wrapped_label
from napari_volseg.widgets.plot import MAP_COLOURS, Plot
from napari_volseg.widgets.predictions import PredictionCombo, view_box
from napari_volseg.widgets.threads import make_worker

__all__ = ["FitPart", "ScorePlot"]

_POLL_MS = 300
_DOES = (
    "Search the thresholds under which the instances match the labels best, and take "
    "them; 'Reset to model' takes them back"
)


_ERRORS = (
    "Compare the instances with these labels in VolSeg › Evaluate: what is missed, "
    "extra, split or merged becomes a coloured layer"
)


class ScorePlot(Plot):
    """The score against each threshold, the others being at their best."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer, 150)
        self.setAccessibleName("Score against threshold")
        self.setToolTip(
            "The score (mean precision over overlaps, 0 to 1.1) when one threshold is "
            "moved and the others stay at their best"
        )
        self.curves: Mapping[str, Sequence[Sequence[float]]] = {}
        self._items: dict[str, Any] = {}
        self._legend = wrapped_label("")
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self._legend)
        self._text = self._accent = pg.mkColor("gray")

    def show_curves(self, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """Draw value and score of each setting."""
        self.curves = curves
        self.setVisible(bool(curves))
        self.later()

    def style_content(self, text: Any, accent: Any) -> None:
        """Take the theme's colours."""
        self._text, self._accent = text, accent

    def draw(self) -> None:
        """Draw a line for each setting, named below in its colour."""
        for item in self._items.values():
            self.canvas.removeItem(item)
        words = []
        for name, points in self.curves.items():
            role = name.removeprefix("seed_")
            colour = MAP_COLOURS.get(
                role, (self._accent if role == "depth" else self._text).name()
            )
            values, scores = np.asarray(points, float).T
            self._items[name] = self.canvas.plot(
                values, scores, pen=pg.mkPen(colour, width=1.5), symbol="o",
                symbolSize=4, symbolBrush=colour, symbolPen=None,
            )  # fmt: skip
            words.append(
                f'<span style="color:{colour}">{name.replace("_", " ")}</span>'
            )
        self._legend.setText(f"Score against {' · '.join(words)}" if words else "")


@dataclass(frozen=True)
class _Wish:
    """What to fit to what, as it was when the button was pressed."""

    maps: list[Any]
    labels: Any
    box: Box
    rule: str
    config: InstancesConfig


class _Search:
    """A search in a process of its own, with files that go when it ends."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._place = tempfile.TemporaryDirectory(
            prefix="volseg-fit-", ignore_cleanup_errors=True
        )
        self.folder = Path(self._place.name)

    def run(self, wish: _Wish) -> dict[str, Any] | None:
        """Write maps and labels and ask for the thresholds; call it in a thread."""
        box = wish.box.slices
        maps, labels = self.folder / "maps.npy", self.folder / "labels.npy"
        np.save(maps, np.stack([np.asarray(channel[box]) for channel in wish.maps]))
        np.save(labels, np.asarray(wish.labels[box]))
        command = ["fit", str(maps), str(labels), "--json", "--curves"]
        command += ["--annotated", wish.rule]
        command += ["--progress", str(self.folder / "progress.json")]
        for name, value in wish.config.model_dump(mode="json").items():
            command.append(f"instances.{name}={value}")
        try:
            return ask(command, self.stop.is_set)
        except Cancelled:
            return None

    def close(self, *_: object) -> None:
        """End it; harmless when called again."""
        self.stop.set()
        self._place.cleanup()


class FitPart(QWidget):
    """Choose labels, fit the thresholds to them, see how the score depends on them."""

    fitted = Signal(object)
    """The `InstancesConfig` that matches best."""
    failed = Signal(str)
    errors_wanted = Signal(object)
    """The labels layer with which the instances are to be compared."""

    def __init__(self, viewer: Any, prediction: PredictionCombo) -> None:
        super().__init__()
        self._viewer = viewer
        self._prediction = prediction
        self._search: _Search | None = None
        self._key: str | None = None
        self._config = InstancesConfig()
        self._make_widgets()
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._show_progress)
        self.button.clicked.connect(self._press)
        self.errors.clicked.connect(self._ask_errors)
        self.labels.layer_changed.connect(self.check)
        self.check()

    def _make_widgets(self) -> None:
        self.labels = LayerCombo(self._viewer, (Labels,))
        self.labels.setToolTip("The labels layer that says what is true")
        self.rule = fit_narrow(QComboBox())
        for name in get_args(AnnotationRule):
            self.rule.addItem(name.replace("_", " "), name)
        self.rule.setToolTip(
            "Where the labels count: everywhere, in slices that have any paint, or in "
            "painted voxels only"
        )
        self.button = QPushButton("Fit to labels")
        self.errors = QPushButton("Show errors…")
        self.result = wrapped_label("")
        self.plot = ScorePlot(self._viewer)
        self.plot.hide()
        rows = narrow_form()
        add_row(rows, "Labels", self.labels)
        add_row(rows, "Annotated", self.rule)
        block = QWidget()
        inner = QVBoxLayout(block)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addLayout(rows)
        for part in (self.button, self.errors):
            inner.addWidget(part)
        self.fold = QCollapsible("Fit to labels")
        self.fold.setDuration(0)
        self.fold.setToolTip(_DOES)
        for outer in (self.fold, self.fold.content()):
            margins = outer.layout()
            if margins is not None:
                margins.setContentsMargins(0, 0, 0, 0)
        self.fold.addWidget(block)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.fold)
        # Not in the fold, which has no room for what appears later.
        layout.addWidget(self.result)
        layout.addWidget(self.plot)

    def forget(self) -> None:
        """Show no result: another prediction is looked at."""
        self.cancel()
        self.result.clear()
        self.plot.show_curves({})
        self.check()

    def use(self, config: InstancesConfig) -> None:
        """Take the thresholds to begin with."""
        self._config = config

    def check(self) -> None:
        """Say whether there is something to fit to."""
        if self._search is not None:
            return
        shown, layer = self._prediction.prediction(), self.labels.layer()
        because = ""
        if shown is None:
            because = "there is no prediction"
        elif layer is None:
            because = "there is no labels layer: add one and paint some objects"
        explain(self.button, _DOES, because)
        explain(self.errors, _ERRORS, because)

    def cancel(self) -> None:
        """End a search; nothing is taken from it."""
        if self._search is not None:
            self._search.stop.set()

    def _press(self) -> None:
        if self._search is not None:
            self.cancel()
            self.button.setText("Cancelling…")
            return
        try:
            wish = self._wish()
        except DataError as error:
            self.failed.emit(sentence(str(error)))
            return
        shown = self._prediction.prediction()
        self._key = None if shown is None else shown.key
        search = self._search = _Search()
        self.destroyed.connect(search.close)
        self.button.setText("Cancel")
        self.result.setText("Reading…")
        worker = make_worker(search.run, wish)
        worker.returned.connect(self._take)
        worker.errored.connect(self._complain)
        worker.finished.connect(self._end)
        worker.start()
        self._timer.start()

    def _ask_errors(self) -> None:
        layer = self.labels.layer()
        if layer is not None:
            self.errors_wanted.emit(layer)

    def _wish(self) -> _Wish:
        shown, layer = self._prediction.prediction(), self.labels.layer()
        if shown is None or not isinstance(layer, Labels):
            raise DataError("choose a prediction and a labels layer first")
        labels = labels_array(layer)
        mask = shown.layers["mask"]
        check_aligned(mask, layer, shown.shape_ZYX)
        box = view_box(self._viewer, mask, shown.shape_ZYX)
        rule = str(self.rule.currentData())
        return _Wish(shown.maps, labels, box, rule, self._config)

    def _show_progress(self) -> None:
        if self._search is None:
            return
        try:
            path = self._search.folder / "progress.json"
            progress = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return
        done, total = progress["done"], progress["total"]
        self.result.setText(f"{done} of about {total} thresholds tried")

    def _take(self, answer: Mapping[str, Any] | None) -> None:
        self._timer.stop()
        shown = self._prediction.prediction()
        is_same = shown is not None and shown.key == self._key
        if answer is None or not is_same:
            self.result.setText("" if not is_same else "Cancelled; nothing changed")
            return
        before, after = answer["before"]["f1_50"], answer["scores"]["f1_50"]
        self.result.setText(
            f"F1 {after:.2f}, before {before:.2f}, on {answer['scores']['n_true']:.0f} "
            "objects that the thresholds were fitted to"
        )
        self.plot.show_curves(answer["curves"])
        self.fitted.emit(InstancesConfig.model_validate(answer["instances"]))

    def _complain(self, error: Exception) -> None:
        self._timer.stop()
        self.result.clear()
        self.failed.emit(sentence(str(error)))

    def _end(self) -> None:
        self._timer.stop()
        search, self._search = self._search, None
        if search is not None:
            search.close()
        self.button.setText("Fit to labels")
        self.check()
