"""What a dock shows of a running job: how far, how well, how to end it."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.events import Event, Finished, Notice, Progress, Started, Validated
from napari_volseg.widgets.curves import Curves
from napari_volseg.widgets.job import Job
from napari_volseg.widgets.messages import wrapped_label
from napari_volseg.widgets.otherrun import OtherRun
from napari_volseg.widgets.plot import CurvePlot
from napari_volseg.widgets.progressline import REFRESH_MS, ProgressLine

__all__ = ["TrainingView", "progress_words", "rate_words"]


class TrainingView(QWidget):
    """Progress, curves and the buttons of a training."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._job: Job | None = None
        self._best: float | None = None
        self._score: float | None = None
        self._progress: Progress | None = None
        self._machine = ""
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(REFRESH_MS)
        self._later.timeout.connect(self._refresh)
        self.bar = ProgressLine()
        self.status = wrapped_label("")
        self.notice = wrapped_label("")
        self.plot = CurvePlot(viewer)
        self.other = OtherRun()
        self.other.hide()
        self.pause = QPushButton("Pause")
        self.pause.setCheckable(True)
        self.pause.setToolTip("Hold the training; it keeps its memory")
        self.stop = QPushButton("Stop and keep")
        self.stop.setToolTip("Save what was learnt and end; Resume goes on later")
        self.go_on = QCheckBox("Go on when napari closes")
        self.go_on.setToolTip(
            "Closing napari leaves the training running; this dock finds it again"
        )
        buttons = QHBoxLayout()
        buttons.addWidget(self.pause)
        buttons.addWidget(self.stop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.bar, self.status, self.plot, self.other, self.notice):
            layout.addWidget(widget)
        layout.addLayout(buttons)
        layout.addWidget(self.go_on)
        self.other.chosen.connect(self._compare)
        self.pause.toggled.connect(self._pause)
        self.stop.clicked.connect(self._stop)
        self.go_on.toggled.connect(self._keep)

    def follow(self, job: Job) -> None:
        """Show a job from now on, with what it has said so far."""
        self._job = job
        self._best = self._score = self._progress = None
        self._machine = ""
        self.notice.clear()
        self.notice.hide()
        self.status.clear()
        self.plot.curves = job.curves
        self.plot.other = None
        self.other.hide()
        if job.folder is not None:
            self.other.offer(job.folder)
        self.bar.begin("starting…")
        self._tidy()
        if job.started is not None:
            self.show_event(job.started)
        if job.validated is not None:
            self.show_event(job.validated)
        if job.progress is not None:
            self.show_event(job.progress)
        self._refresh()
        job.ready.connect(self.other.offer)
        job.event.connect(self.show_event)
        job.finished.connect(self.end)

    def show_event(self, event: Event) -> None:
        """Show what the job says."""
        match event:
            case Started():
                gigabytes = event.memory_bytes / 1e9
                self._machine = f"{event.device} · about {gigabytes:.1f} GB"
            case Progress():
                self._progress = event
            case Validated():
                self._score = event.metrics.get("f1_50")
                if event.best:
                    self._best = self._score
            case Notice():
                self.notice.setText(event.message)
                self.notice.show()
            case _:
                return
        if not self._later.isActive():
            self._later.start()

    def _refresh(self) -> None:
        """Show all at once, so that the window is painted once."""
        is_stopping = self._job is not None and self._job.is_stopping
        if self._job is not None and self._progress is not None and not is_stopping:
            self.bar.show_progress(self._progress)
        self.status.setText(self._words())
        self.plot.redraw()

    def end(self, result: Finished) -> None:
        """Show that nothing runs any more; the curves stay."""
        if self._job is not None:
            self._job.ready.disconnect(self.other.offer)
            self._job.event.disconnect(self.show_event)
            self._job.finished.disconnect(self.end)
            self._job = None
        self._later.stop()
        self._refresh()
        self.bar.setRange(0, 1)
        self.bar.setValue(0 if result.reason == "failed" else 1)
        self.bar.setFormat(result.reason)
        self.bar.setAccessibleDescription(result.reason)
        self._tidy()

    def _words(self) -> str:
        parts = [] if self._progress is None else [progress_words(self._progress)]
        if self._score is not None:
            best = "" if self._best is None else f" (best {self._best:.2f})"
            parts.append(f"F1 {self._score:.2f}{best}")
        rate = "" if self._progress is None else rate_words(self._progress)
        return "\n".join(filter(None, (" · ".join(parts), rate, self._machine)))

    def _compare(self, curves: Curves | None) -> None:
        self.plot.other = curves
        self.plot.redraw()

    def _pause(self, is_paused: bool) -> None:
        self.pause.setText("Resume" if is_paused else "Pause")
        if self._job is not None:
            self._job.ask(pause=is_paused)

    def _stop(self) -> None:
        if self._job is not None:
            self._job.stop()
            self._tidy()

    def _keep(self, is_kept: bool) -> None:
        if self._job is not None:
            self._job.keep(is_kept)

    def _tidy(self) -> None:
        job = self._job
        is_stopping = job is not None and job.is_stopping
        self.pause.blockSignals(True)
        self.pause.setChecked(False)
        self.pause.setText("Pause")
        self.pause.blockSignals(False)
        for widget in (self.pause, self.stop, self.go_on):
            widget.setVisible(job is not None)
        self.pause.setEnabled(not is_stopping)
        self.go_on.setEnabled(not is_stopping)
        self.go_on.blockSignals(True)
        self.go_on.setChecked(job is not None and job.keep_running)
        self.go_on.blockSignals(False)
        if is_stopping:
            self.bar.begin("stopping…")
            self.stop.setText("End now")
            self.stop.setToolTip("Do not wait: the last checkpoint stands")
        else:
            self.stop.setText("Stop and keep")
            self.stop.setToolTip("Save what was learnt and end; Resume goes on later")


def progress_words(progress: Progress) -> str:
    """Return the step and the loss in words."""
    text = f"step {progress.step}"
    return text if progress.loss is None else f"{text} · loss {progress.loss:.3f}"


def rate_words(progress: Progress) -> str:
    """Return the epoch and the learning rate in words, empty when unknown."""
    if progress.lr is None:
        return ""
    return f"epoch {progress.epoch + 1} · learning rate {progress.lr:.2g}"
