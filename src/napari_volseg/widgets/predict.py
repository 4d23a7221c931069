"""The Predict dock: a model, an image, one button."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_volseg.config import Config
from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Notice, Progress, Started
from napari_volseg.models import ModelInfo
from napari_volseg.runs import create_prediction, is_run
from napari_volseg.runs.log import LOG
from napari_volseg.widgets.actions import (
    PREDICT_KEY,
    bind_key,
    open_dock,
    register_context_menu,
)
from napari_volseg.widgets.combos import LayerCombo
from napari_volseg.widgets.form import ConfigForm, add_row, narrow_form
from napari_volseg.widgets.guidance import predicted_words
from napari_volseg.widgets.job import Job, running_job
from napari_volseg.widgets.layers import placement
from napari_volseg.widgets.likeness import LikenessLine
from napari_volseg.widgets.messages import (
    MessageLine,
    explain,
    primary_button,
    scrolled,
    sentence,
    wrapped_label,
)
from napari_volseg.widgets.modellist import MATCH, fit_words
from napari_volseg.widgets.modelpart import ModelPart
from napari_volseg.widgets.parts import Part, part_words
from napari_volseg.widgets.preferences import default_device, runs_dir
from napari_volseg.widgets.progressline import REFRESH_MS, ProgressLine
from napari_volseg.widgets.remembered import Choice, keep, recall, remember
from napari_volseg.widgets.results import Delivery
from napari_volseg.widgets.series import Series
from napari_volseg.widgets.stream import MapStream
from napari_volseg.widgets.wherepart import WherePart

if TYPE_CHECKING:
    import napari

__all__ = ["PredictWidget"]

_MATCHING = "inference.match_voxel_size"
_SIMPLE = {
    "system.device": "Device",
    _MATCHING: MATCH,
}
_SECTIONS = ("inference", "instances")


class PredictWidget(QWidget):
    """Predict the maps and instances of an image layer."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._job: Job | None = None
        self._is_asked = False
        self._going: tuple[Job, Callable[..., None]] | None = None
        self._again: Callable[[], None] | None = None
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(REFRESH_MS)
        self._later.timeout.connect(self._show_progress)
        self._make_widgets()
        self._lay_out()
        self._connect()
        register_context_menu()
        bind_key(viewer)
        job = running_job(viewer, "predict")
        if job is not None:
            self._attach(job)
        self.refresh()
        self._tidy()

    def _make_widgets(self) -> None:
        self.image = LayerCombo(self._viewer, (Image,))
        self.image.setToolTip("The image layer to predict")
        self.models = ModelPart()
        self.where = WherePart(self._viewer)
        self.fit = wrapped_label("")
        self.likeness = LikenessLine()
        self.form = ConfigForm(_SIMPLE, _SECTIONS)
        self.predict = primary_button("Predict")
        self.bar = ProgressLine()
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop the prediction and keep the blocks that are done")
        self.resume = QPushButton("Continue")
        self.resume.setToolTip("Go on with the prediction where it was stopped")
        self.message = MessageLine()
        self.inspect = QPushButton("Inspect…")
        self.inspect.setToolTip("Look at the maps and move the thresholds")
        self.next = wrapped_label("")

    def _lay_out(self) -> None:
        self.setup = QWidget()
        setup = QVBoxLayout(self.setup)
        setup.setContentsMargins(0, 0, 0, 0)
        rows = narrow_form()
        add_row(rows, "Image", self.image)
        add_row(rows, "Model", self.models, self.models.combo)
        setup.addLayout(rows)
        for line in (self.where, self.fit, self.likeness, self.form, self.predict):
            setup.addWidget(line)
        self.running = QWidget()
        running = QHBoxLayout(self.running)
        running.setContentsMargins(0, 0, 0, 0)
        running.addWidget(self.bar, 1)
        running.addWidget(self.cancel)
        page = scrolled(self)
        parts: tuple[QWidget, ...] = (
            self.setup,
            self.running,
            self.message,
            self.resume,
            self.inspect,
            self.next,
        )
        for part in parts:
            page.addWidget(part)
        page.addStretch(1)
        self.resume.hide()

    def _connect(self) -> None:
        self.image.layer_changed.connect(self._choose_image)
        self.models.changed.connect(self._choose_model)
        self.models.listed.connect(self._take_models)
        self.models.failed.connect(self._refuse_model)
        self.where.changed.connect(self._check)
        self.form.field(_MATCHING).changed.connect(self._check)
        self.predict.clicked.connect(self.start)
        self.cancel.clicked.connect(self._cancel)
        self.resume.clicked.connect(self._continue)
        self.inspect.clicked.connect(self._open_inspect)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look for new models whenever the dock comes to the front."""
        super().showEvent(event)
        self.refresh()

    def refresh(self) -> None:
        """Look for models in the folder of runs, in a thread."""
        self.models.refresh()

    def predict_selected(self) -> None:
        """Predict the selected layer: as before, or else with the newest model."""
        if self._job is not None:
            self.message.show_text("A prediction runs: cancel it, or wait, first.")
            return
        self.image.choose_selected()
        self._is_asked = True
        self.refresh()

    def start(self) -> None:
        """Start a prediction; does nothing while one runs."""
        if self._job is not None:
            return
        try:
            layer, model, parts = self._choice()
            config = self.form.config()
        except DataError as error:
            self.message.show_error(str(error))
            return
        choice = Choice(
            str(model.path),
            self.form.value(),
            self.where.where.currentText(),
            int(self.where.slices.value()),
        )
        source = remember(layer, choice)
        self._again = None

        def make(part: Part) -> Path:
            keep(source, choice)
            return _make_job(model.path, part, config)

        if len(parts) == 1:
            self._predict_one(layer, model, parts[0], partial(make, parts[0]))
        else:
            self._predict_each(layer, parts, make)

    def _predict_one(
        self, layer: Image, model: ModelInfo, part: Part, make: Callable[[], Path]
    ) -> None:
        place, start, name = placement(layer), part.box.start, part.volume.name
        stream = MapStream(self._viewer, place, name, start)

        def run(make: Callable[[], Path], resume: bool = False) -> None:
            job = Job(self._viewer, "predict", f"VolSeg prediction of '{name}'")
            stream.follow(job)
            delivery = Delivery(
                self._viewer, job, place, name, model.path, stream, start
            )
            delivery.delivered.connect(self._show_result)
            delivery.failed.connect(self.message.show_error)
            self._attach(job)
            self._going = job, partial(run, resume=True)
            job.finished.connect(self._offer)
            job.start(make, resume=resume)

        run(make)

    def _predict_each(
        self, layer: Image, parts: list[Part], make: Callable[[Part], Path]
    ) -> None:
        """Predict one part after the other, and show them as one."""
        series = Series(self._viewer, layer, parts[0].box.start)
        series.delivered.connect(self._show_result)
        series.failed.connect(self.message.show_error)
        series.begun.connect(self._attach)
        series.start(parts, make)

    def _offer(self, result: Finished) -> None:
        """Offer to go on with a prediction that was stopped or failed."""
        if self._going is None:
            return
        (job, run), self._going = self._going, None
        folder = job.folder
        if result.reason in ("stopped", "failed") and folder is not None:
            self._again = partial(run, lambda: folder)
        self.resume.setVisible(self._again is not None)

    def _continue(self) -> None:
        if self._job is None and self._again is not None:
            again, self._again = self._again, None
            again()

    def _choice(self) -> tuple[Image, ModelInfo, list[Part]]:
        """Return what to predict with what.

        Raises
        ------
        DataError
            If something is missing or does not fit.
        """
        layer = self.image.layer()
        if layer is None:
            raise DataError("there is no image: open a volume")
        model = self.models.model()
        if model is None:
            raise DataError(
                "there is no model: train one in VolSeg › Train, or choose one with …"
            )
        return layer, model, self.where.parts(layer, model.in_channels)

    def _check(self, *_: object) -> None:
        """Say at once what keeps Predict from starting, and how the voxels fit."""
        if self._job is not None:
            return
        model = self.models.model()
        self.where.show_for(
            self.image.layer(), 1 if model is None else model.in_channels
        )
        try:
            layer, model, parts = self._choice()
        except DataError as error:
            explain(self.predict, "", str(error))
            self.fit.setText(f"{sentence(str(error))}.")
            self.likeness.clear()
            self.next.setText("What next? Choose an image and a model.")
            return
        explain(self.predict, f"Predict in a process of its own ({PREDICT_KEY})")
        matched = bool(self.form.field(_MATCHING).value())
        words = fit_words(layer, model, is_matched=matched)
        self.fit.setText(f"{words}\n{part_words(parts)}")
        self.likeness.check(parts[0].volume, model)
        self.next.setText("What next? Press Predict; napari stays free meanwhile.")

    def _choose_image(self) -> None:
        """Take the model and the settings that the image was last predicted with."""
        layer = self.image.layer()
        choice = None if layer is None or self._job is not None else recall(layer)
        if choice is not None and self.models.choose(Path(choice.model)):
            self._take(choice)
        self._check()

    def _take(self, choice: Choice) -> None:
        try:
            self.form.set_value(choice.settings)
        except DataError:
            return  # settings of another version
        self.where.slices.setValue(choice.depth)
        # A drawn box may be gone; the whole layer is always there.
        if choice.where == "current view":
            self.where.where.setCurrentText(choice.where)

    def _choose_model(self) -> None:
        model = self.models.model()
        if model is not None:
            tree = {
                "inference": model.inference.model_dump(mode="json"),
                "instances": model.instances.model_dump(mode="json"),
                "system": {"device": default_device()},
            }
            self.form.set_value(tree)
        self._check()

    def _take_models(self) -> None:
        self._check()
        if self._is_asked:
            self._is_asked = False
            layer = self.image.layer()
            if layer is None or recall(layer) is None:
                self.models.choose_newest()
            self.start()

    def _refuse_model(self, why: str) -> None:
        self.message.show_error(why) if why else self.message.clear()

    def add_model(self, path: Path) -> None:
        """Choose a model file from anywhere."""
        self.models.add(path)

    def _attach(self, job: Job, what: str = "") -> None:
        self._job = job
        self.bar.begin(f"{what} · starting…" if what else "starting…")
        self.message.clear()
        job.event.connect(self._show_event)
        job.finished.connect(self._finish)
        self._tidy()
        QTimer.singleShot(0, self._watch_window)

    def _watch_window(self) -> None:
        if self._job is not None:
            self._job.watch_window(self)

    def _cancel(self) -> None:
        if self._job is not None:
            self._job.stop()
            self.bar.begin("cancelling…")
            self.cancel.setText("End now")

    def _show_event(self, event: Event) -> None:
        if isinstance(event, Progress):
            if not self._later.isActive():
                self._later.start()
        elif isinstance(event, Started):
            gigabytes = event.memory_bytes / 2**30
            words = f"On {event.device}, about {gigabytes:.1f} GB of memory"
            self.next.setText(f"{words}. What next? Go on painting meanwhile.")
        elif isinstance(event, Notice):
            self.message.show_text(event.message)

    def _show_progress(self) -> None:
        job = self._job
        if job is not None and job.progress is not None and not job.is_stopping:
            self.bar.show_progress(job.progress)

    def _finish(self, result: Finished) -> None:
        job, self._job = self._job, None
        log = None if job is None or job.folder is None else job.folder / LOG
        if result.reason == "failed":
            self.message.show_error(result.message, log)
        elif result.message:
            self.message.show_text(result.message)
        self._tidy()

    def _show_result(self, layers: list[Any]) -> None:
        self.inspect.setVisible(all(layer.ndim == 3 for layer in layers))
        self.next.setText(predicted_words(layers))

    def _open_inspect(self) -> None:
        open_dock(self._viewer, "Inspect")

    def _tidy(self) -> None:
        is_running = self._job is not None
        self.setup.setEnabled(not is_running)
        self.running.setVisible(is_running)
        self.cancel.setText("Cancel")
        self.inspect.hide()
        self.resume.hide()
        if not is_running:
            self._check()


def _make_job(model: Path, part: Part, config: Config) -> Path:
    run = model.parent if is_run(model.parent) else runs_dir()
    return create_prediction(
        model,
        part.volume,
        part.source,
        run / "predictions",
        inference=config.inference,
        instances=config.instances,
        device=config.system.device,
    )
