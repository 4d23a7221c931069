"""The part of the Inspect dock that gives a whole prediction other instances."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_volseg.config import InstancesConfig
from napari_volseg.runs import is_prediction
from napari_volseg.widgets.helper import Cancelled, ask
from napari_volseg.widgets.messages import explain, sentence
from napari_volseg.widgets.predictions import PredictionCombo
from napari_volseg.widgets.results import Prediction, read_prediction_result
from napari_volseg.widgets.threads import make_worker

__all__ = ["ApplyPart"]

_POLL_MS = 300
_TEXT = "Apply to the prediction"
_DOES = (
    "Make the instances of the whole volume with these thresholds, block by block, and "
    "keep them with the prediction in place of the old ones; your corrections in other "
    "layers stay"
)


class _Work:
    """A segmentation of a whole prediction in a process of its own."""

    def __init__(self, folder: Path, config: InstancesConfig) -> None:
        self.folder, self.config = folder, config
        self.stop = threading.Event()
        self._place = tempfile.TemporaryDirectory(
            prefix="volseg-apply-", ignore_cleanup_errors=True
        )
        self.progress = Path(self._place.name) / "progress.json"

    def run(self) -> Prediction | None:
        """Segment and read the result; call it in a thread. None when cancelled."""
        settings = self.config.model_dump(mode="json").items()
        command = ["segment", str(self.folder), "--json"]
        command += ["--progress", str(self.progress)]
        command += [f"instances.{name}={value}" for name, value in settings]
        try:
            ask(command, self.stop.is_set)
        except Cancelled:
            return None
        return read_prediction_result(self.folder)

    def close(self, *_: object) -> None:
        """End it; harmless when called again."""
        self.stop.set()
        self._place.cleanup()


class ApplyPart(QWidget):
    """One button: the whole volume, with progress; pressed again, it cancels."""

    applied = Signal(str, object, object)
    """Key of the prediction, the `Prediction` as it is now, and its thresholds."""
    failed = Signal(str)

    def __init__(self, prediction: PredictionCombo) -> None:
        super().__init__()
        self._prediction = prediction
        self._work: _Work | None = None
        self._config = InstancesConfig()
        self.button = QPushButton(_TEXT)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.button)
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._show_progress)
        self.button.clicked.connect(self._press)
        self.check()

    def use(self, config: InstancesConfig) -> None:
        """Take the thresholds to apply."""
        self._config = config

    def check(self) -> None:
        """Say whether the prediction can be changed."""
        if self._work is not None:
            return
        shown = self._prediction.prediction()
        because = ""
        if shown is None:
            because = "there is no prediction"
        elif not is_prediction(Path(shown.key)):
            because = (
                "these maps were opened from a file: 'volseg segment' on the command "
                "line replaces the instances in it"
            )
        explain(self.button, _DOES, because)

    def _press(self) -> None:
        if self._work is not None:
            self._work.stop.set()
            self.button.setText("Cancelling…")
            return
        shown = self._prediction.prediction()
        if shown is None:
            return
        work = self._work = _Work(Path(shown.key), self._config)
        self.destroyed.connect(work.close)
        self.button.setText("Cancel")
        self.button.setToolTip("Stop, and leave the prediction as it was")
        worker = make_worker(work.run)
        worker.returned.connect(self._take)
        worker.errored.connect(self._complain)
        worker.finished.connect(self._end)
        worker.start()
        self._timer.start()

    def _show_progress(self) -> None:
        if self._work is None or self._work.stop.is_set():
            return
        try:
            progress = json.loads(self._work.progress.read_text("utf-8"))
        except (OSError, ValueError):
            return
        share = 100 * progress["done"] / max(1, progress["total"])
        self.button.setText(f"{share:.0f} % · Cancel")

    def _take(self, result: Prediction | None) -> None:
        if result is not None and self._work is not None:
            self.applied.emit(str(self._work.folder), result, self._work.config)

    def _complain(self, error: Exception) -> None:
        self.failed.emit(sentence(str(error)))

    def _end(self, *_: Any) -> None:
        self._timer.stop()
        work, self._work = self._work, None
        if work is not None:
            work.close()
        self.button.setText(_TEXT)
        self.check()
