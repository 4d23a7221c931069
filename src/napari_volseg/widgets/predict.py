"""The Predict dock: a model, an image, one button."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.qt.threading import create_worker
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.config import Config
from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Notice, Progress, Started
from napari_volseg.models import ModelInfo, read_model_info
from napari_volseg.runs import create_prediction, is_run
from napari_volseg.runs.log import LOG
from napari_volseg.volume import Volume
from napari_volseg.widgets.actions import open_dock, register_context_menu
from napari_volseg.widgets.combos import LayerCombo, fit_narrow
from napari_volseg.widgets.form import ConfigForm, add_row, narrow_form
from napari_volseg.widgets.job import Job, running_job
from napari_volseg.widgets.layers import (
    image_volume,
    layer_source,
    placement,
    voxel_size,
    voxel_words,
)
from napari_volseg.widgets.messages import (
    MessageLine,
    explain,
    primary_button,
    scrolled,
    sentence,
    wrapped_label,
)
from napari_volseg.widgets.modellist import (
    find_models,
    model_identity,
    model_words,
)
from napari_volseg.widgets.preferences import default_device, runs_dir
from napari_volseg.widgets.progressline import REFRESH_MS, ProgressLine
from napari_volseg.widgets.results import Delivery

if TYPE_CHECKING:
    import napari

__all__ = ["PredictWidget"]

_SIMPLE = {"system.device": "Device"}
_SECTIONS = ("inference", "instances")


class PredictWidget(QWidget):
    """Predict the maps and instances of an image layer."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._job: Job | None = None
        self._models: list[ModelInfo] = []
        self._is_asked = False
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(REFRESH_MS)
        self._later.timeout.connect(self._show_progress)
        self._make_widgets()
        self._lay_out()
        self.image.layer_changed.connect(self._check)
        self.model.currentIndexChanged.connect(self._choose_model)
        self.browse.clicked.connect(self._browse)
        self.predict.clicked.connect(self.start)
        self.cancel.clicked.connect(self._cancel)
        self.inspect.clicked.connect(self._open_inspect)
        register_context_menu()
        job = running_job(viewer, "predict")
        if job is not None:
            self._attach(job)
        self.refresh()
        self._tidy()

    def _make_widgets(self) -> None:
        self.image = LayerCombo(self._viewer, (Image,))
        self.image.setToolTip("The image layer to predict, as a whole")
        self.model = fit_narrow(QComboBox())
        self.model.setToolTip("The model, newest first: name · score · age")
        self.browse = QPushButton("…")
        self.browse.setToolTip("Browse for a model.safetensors elsewhere")
        self.browse.setAccessibleName("Browse for a model")
        self.browse.setMaximumWidth(32)
        self.fit = wrapped_label("")
        self.form = ConfigForm(_SIMPLE, _SECTIONS)
        self.predict = primary_button("Predict")
        self.bar = ProgressLine()
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop the prediction; nothing is added")
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
        line = QHBoxLayout()
        line.addWidget(self.model, 1)
        line.addWidget(self.browse)
        add_row(rows, "Model", line)
        setup.addLayout(rows)
        setup.addWidget(self.fit)
        setup.addWidget(self.form)
        setup.addWidget(self.predict)
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
            self.inspect,
            self.next,
        )
        for part in parts:
            page.addWidget(part)
        page.addStretch(1)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look for new models whenever the dock comes to the front."""
        super().showEvent(event)
        self.refresh()

    def refresh(self) -> None:
        """Look for models in the folder of runs, in a thread."""
        worker = create_worker(find_models, _start_thread=False, _ignore_errors=True)
        worker.returned.connect(self._list_models)
        worker.start()

    def predict_selected(self) -> None:
        """Predict the layer selected in the viewer with the newest model."""
        active = self._viewer.layers.selection.active
        if active is not None:
            self.image.set_layer(active)
        self._is_asked = True
        self.refresh()

    def start(self) -> None:
        """Start a prediction; does nothing while one runs."""
        if self._job is not None:
            return
        try:
            layer, model, volume = self._choice()
            config = self.form.config()
        except DataError as error:
            self.message.show_error(str(error))
            return
        job = Job(self._viewer, "predict", f"VolSeg prediction of '{layer.name}'")
        delivery = Delivery(
            self._viewer, job, placement(layer), str(layer.name), model.path
        )
        delivery.delivered.connect(self._show_result)
        self._attach(job)
        job.start(partial(_make_job, model.path, volume, layer_source(layer), config))

    def _choice(self) -> tuple[Image, ModelInfo, Volume]:
        """Return what to predict with what.

        Raises
        ------
        DataError
            If something is missing or does not fit.
        """
        layer = self.image.layer()
        if layer is None:
            raise DataError("there is no image: open a volume")
        volume = image_volume(layer)
        model = self._model()
        if model is None:
            raise DataError("there is no model: train one in VolSeg › Train, or Browse")
        if volume.n_channels != model.in_channels:
            raise DataError(
                f"'{layer.name}' has {volume.n_channels} channels but the model "
                f"'{model.name}' was trained on {model.in_channels}: choose another"
            )
        return layer, model, volume

    def _model(self) -> ModelInfo | None:
        index = self.model.currentIndex()
        return self._models[index] if 0 <= index < len(self._models) else None

    def _check(self, *_: object) -> None:
        """Say at once what keeps Predict from starting, and how the voxels fit."""
        if self._job is not None:
            return
        try:
            layer, model = self._choice()[:2]
        except DataError as error:
            explain(self.predict, "", str(error))
            self.fit.setText(f"{sentence(str(error))}.")
            self.next.setText("What next? Choose an image and a model.")
            return
        explain(self.predict, "Predict in a process of its own")
        self.fit.setText(_fit_words(layer, model))
        self.next.setText("What next? Press Predict; napari stays free meanwhile.")

    def _choose_model(self, *_: object) -> None:
        model = self._model()
        if model is not None:
            tree = {
                "inference": model.inference.model_dump(mode="json"),
                "instances": model.instances.model_dump(mode="json"),
                "system": {"device": default_device()},
            }
            self.form.set_value(tree)
            self.model.setToolTip(f"{model.path}\n{model.architecture}")
        self._check()

    def _list_models(self, models: list[ModelInfo]) -> None:
        chosen = self._model()
        newest = self._models[0].path if self._models else None
        browsed = [m for m in self._models if m.path.parent.parent != runs_dir()]
        paths = {model.path for model in models}
        models = [*models, *(m for m in browsed if m.path not in paths)]
        if [model_identity(m) for m in models] != [
            model_identity(m) for m in self._models
        ]:
            self._fill(models)
            # A newer model is what people mean, unless they chose an older one.
            if chosen is not None and chosen.path != newest:
                self._select(chosen.path)
        self._check()
        if self._is_asked:
            self._is_asked = False
            self.model.setCurrentIndex(0 if self._models else -1)
            self.start()

    def _fill(self, models: list[ModelInfo]) -> None:
        self.model.blockSignals(True)
        self._models = models
        self.model.clear()
        for model in models:
            self.model.addItem(model_words(model))
            row = self.model.count() - 1
            self.model.setItemData(row, str(model.path), Qt.ItemDataRole.ToolTipRole)
        self.model.blockSignals(False)
        self._choose_model()

    def _select(self, path: Path) -> None:
        for index, model in enumerate(self._models):
            if model.path == path:
                self.model.setCurrentIndex(index)

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Choose a model", str(runs_dir()), "Model (*.safetensors)"
        )
        if path:
            self.add_model(Path(path))

    def add_model(self, path: Path) -> None:
        """Choose a model file from anywhere."""
        try:
            model = read_model_info(path)
        except DataError as error:
            self.message.show_error(str(error))
            return
        self.message.clear()
        others = [other for other in self._models if other.path != path]
        self._fill([*others, model])
        self._select(path)

    def _attach(self, job: Job) -> None:
        self._job = job
        self.bar.begin("starting…")
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
        self.inspect.show()
        self.next.setText(
            "What next? Look at the instances, and move the thresholds in VolSeg › "
            "Inspect; paint where they are wrong and train on."
        )

    def _open_inspect(self) -> None:
        open_dock(self._viewer, "Inspect")

    def _tidy(self) -> None:
        is_running = self._job is not None
        self.setup.setEnabled(not is_running)
        self.running.setVisible(is_running)
        self.cancel.setText("Cancel")
        self.inspect.hide()
        if not is_running:
            self._check()


def _fit_words(layer: Image, model: ModelInfo) -> str:
    size = f"Voxel {voxel_words(layer)}"
    ratio = np.array(voxel_size(layer)) / np.array(model.voxel_size)
    if np.allclose(ratio, 1, rtol=0.05):
        return f"{size}, as the model"
    trained = " × ".join(f"{edge:g}" for edge in model.voxel_size)
    if np.allclose(ratio, ratio[0], rtol=0.05):
        return (
            f"{size}; the model was trained on {trained} nm: objects look "
            f"{1 / ratio[0]:.2g} times their size to it"
        )
    return f"{size}; the model was trained on {trained} nm: expect worse instances"


def _make_job(model: Path, volume: Volume, source: str | None, config: Config) -> Path:
    run = model.parent if is_run(model.parent) else runs_dir()
    return create_prediction(
        model,
        volume,
        source,
        run / "predictions",
        inference=config.inference,
        instances=config.instances,
        device=config.system.device,
    )
