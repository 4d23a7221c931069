"""Give a running training the labels as they are painted now."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.errors import DataError
from napari_volseg.runs import (
    NewLabels,
    add_revision,
    newest_annotated,
    newest_revision,
)
from napari_volseg.widgets.combos import LayerCombo
from napari_volseg.widgets.fields import ignore_stray_wheel
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.job import Job
from napari_volseg.widgets.learntfrom import LearntFrom
from napari_volseg.widgets.messages import MessageLine, explain
from napari_volseg.widgets.snapshots import PairSnapshot, lock_layers
from napari_volseg.widgets.threads import make_worker

__all__ = ["NewLabelsPanel"]

_USE = "Give what is painted now to the training; it goes on without a restart"
_EVERY_MINUTES = 10


class NewLabelsPanel(QWidget):
    """Hands labels to a training at the press of a button, or every some minutes.

    Labels are copied at once, or in a thread while their layer is locked, and
    written there; the training says in its notices what it made of them.
    """

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._job: Job | None = None
        self._layers: LearntFrom | None = None
        self._worker: Any = None
        self.combos: list[LayerCombo] = []
        self.use = QPushButton("Use new labels")
        self.use.setToolTip("Give what is painted now to the running training")
        self.auto = QCheckBox("every")
        self.auto.setToolTip("Give the labels to the training again and again")
        self.minutes = QSpinBox()
        self.minutes.setRange(1, 240)
        self.minutes.setSuffix(" min")
        self.minutes.setValue(_EVERY_MINUTES)
        self.minutes.setToolTip("Minutes between two looks at the labels")
        ignore_stray_wheel(self.minutes)
        self.message = MessageLine()
        self._rows = narrow_form()
        line = QHBoxLayout()
        line.addWidget(self.use, 1)
        line.addWidget(self.auto)
        line.addWidget(self.minutes)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(self._rows)
        layout.addLayout(line)
        layout.addWidget(self.message)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.hand_in)
        self.use.clicked.connect(self.hand_in)
        self.auto.toggled.connect(self._set_timer)
        self.minutes.valueChanged.connect(self._set_timer)
        self._set_timer()
        self._tidy()

    def follow(self, job: Job, layers: LearntFrom) -> None:
        """Serve a training that learns from these layers."""
        self._job, self._layers = job, layers
        self.message.clear()
        self._choose_layers(layers)
        job.ready.connect(self._tidy)
        job.finished.connect(self._end)
        self._set_timer()
        self._tidy()
        self.show()

    def hand_in(self, *_: object) -> None:
        """Give the labels as they are now to the training."""
        folder = None if self._job is None else self._job.folder
        if folder is None or self._layers is None or self._worker is not None:
            return
        try:
            snapshots = self._layers.capture(self._viewer)
        except DataError as error:
            self.message.show_error(str(error))
            return
        unlock = lock_layers(snapshots)
        worker = make_worker(_hand_in, folder, snapshots, self._layers.keeps_region)
        worker.yielded.connect(unlock)
        worker.finished.connect(unlock)
        worker.returned.connect(self._show)
        worker.errored.connect(partial(_show_failure, self.message))
        worker.finished.connect(self._let_go)
        self._worker = worker
        self.message.show_text("Handing in the labels…")
        self._tidy()
        worker.start()

    def _show(self, answer: str | DataError) -> None:
        if isinstance(answer, DataError):
            self.message.show_error(str(answer))
        else:
            self.message.show_text(answer)

    def _let_go(self) -> None:
        self._worker = None
        self._tidy()

    def _end(self, *_: object) -> None:
        if self._job is not None:
            self._job.ready.disconnect(self._tidy)
            self._job.finished.disconnect(self._end)
        self._job = None
        self._timer.stop()
        self.hide()

    def _set_timer(self, *_: object) -> None:
        self.minutes.setEnabled(self.auto.isChecked())
        if self.auto.isChecked() and self._job is not None:
            self._timer.start(60_000 * self.minutes.value())
        else:
            self._timer.stop()

    def _choose_layers(self, layers: LearntFrom) -> None:
        while self._rows.rowCount():
            self._rows.removeRow(0)
        self.combos = []
        names = layers.names()
        for pair in range(len(layers)):
            combo = LayerCombo(self._viewer, (Labels,))
            combo.setToolTip(
                f"The layer with the labels of {names[pair] or 'this image'} now"
            )
            combo.setPlaceholderText("choose the layer")
            combo.setCurrentIndex(-1)  # where it is not known, none looks chosen
            combo.set_layer(layers.labels(self._viewer, pair))
            combo.activated.connect(partial(self._choose, pair))
            self.combos.append(combo)
            text = "Labels" if len(layers) == 1 else f"Labels {pair + 1}"
            add_row(self._rows, text, combo)

    def _choose(self, pair: int, *_: object) -> None:
        layer = self.combos[pair].layer()
        if layer is not None and self._layers is not None:
            self._layers.choose(pair, layer)
            self.message.clear()

    def _tidy(self, *_: object) -> None:
        is_ready = self._job is not None and self._job.folder is not None
        explain(
            self.use,
            _USE,
            "The training is being set up" * (not is_ready)
            or "The labels are being handed in" * (self._worker is not None),
        )


def _hand_in(
    folder: Path, snapshots: Sequence[PairSnapshot], keeps_region: bool
) -> Generator[None, None, str | DataError]:
    """Copy, check and write the labels, in a thread; return what to tell the user."""
    try:
        labels = [NewLabels(*snapshot.read()) for snapshot in snapshots]
        yield None  # layers that were locked may change again
        if keeps_region:
            known = newest_annotated(folder)
            labels = [
                NewLabels(new.labels_ZYX, mask)
                if snapshot.annotated.rule == "everywhere"
                else new
                for new, mask, snapshot in zip(labels, known, snapshots, strict=True)
            ]
        before = newest_revision(folder)
        revision = add_revision(folder, labels)
    except DataError as error:
        return error
    if revision == before:
        return "The labels are as they were."
    return f"Revision {revision} is handed in."


def _show_failure(message: MessageLine, error: Exception) -> None:
    message.show_error(f"the labels were not handed in: {error}")
