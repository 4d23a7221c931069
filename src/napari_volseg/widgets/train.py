"""The Train dock: from layers to a model, watched while it learns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Layer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.config import Config, load_config, preset_names, preset_summary
from napari_volseg.errors import DataError
from napari_volseg.events import Finished
from napari_volseg.runs import RunSummary
from napari_volseg.runs.log import LOG
from napari_volseg.runs.pairs import Role
from napari_volseg.widgets.actions import open_dock, register_context_menu
from napari_volseg.widgets.annotationpanel import AnnotationPanel
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.form import TRAIN_SIMPLE, ConfigForm, add_row, narrow_form
from napari_volseg.widgets.guidance import Welcome, train_words
from napari_volseg.widgets.job import Job, running_job
from napari_volseg.widgets.layers import plain, voxel_words
from napari_volseg.widgets.learntfrom import LearntFrom, layers_of_run
from napari_volseg.widgets.messages import (
    MessageLine,
    explain,
    primary_button,
    scrolled,
    wrapped_label,
)
from napari_volseg.widgets.newlabels import NewLabelsPanel
from napari_volseg.widgets.pairs import PairList
from napari_volseg.widgets.planner import Planner
from napari_volseg.widgets.planview import PlanView
from napari_volseg.widgets.preferences import runs_dir, with_default_device
from napari_volseg.widgets.preview import LivePreview
from napari_volseg.widgets.runfolders import (
    amend_folder,
    find_unfinished,
    make_run,
    without_files,
)
from napari_volseg.widgets.runview import TrainingView
from napari_volseg.widgets.scoretable import ScoreTable
from napari_volseg.widgets.snapshots import (
    PairSnapshot,
    lock_layers,
    pair_names,
)
from napari_volseg.widgets.threads import make_worker

if TYPE_CHECKING:
    import napari

__all__ = ["TrainWidget"]

_SECTIONS = (
    "data",
    "augmentation",
    "model",
    "optimization",
    "system",
    "monitor",
    "inference",
)


class TrainWidget(QWidget):
    """Train a network on image and labels layers."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._job: Job | None = None
        self._found: RunSummary | None = None
        self._outcome = "ready"
        self._trained: Path | None = None
        self._make_widgets()
        self._lay_out()
        self._connect()
        self._choose_preset()
        register_context_menu()
        job = running_job(viewer, "train")
        if job is not None:
            self._attach(job, self._images_of(job.folder))
        else:
            self._look_for_runs()
        self._tidy()

    def _make_widgets(self) -> None:
        viewer = self._viewer
        self.welcome = Welcome(viewer)
        self.pairs = PairList(viewer)
        self.annotation = AnnotationPanel(viewer, self.pairs, self._live_pairs)
        self.preset = fit_narrow(QComboBox())
        for name in preset_names():
            self.preset.addItem(name, name)
            tip = preset_summary(name)
            row = self.preset.count() - 1
            self.preset.setItemData(row, tip, Qt.ItemDataRole.ToolTipRole)
        self.preset.addItem("from a file…", None)
        self.preset.setCurrentIndex(max(0, self.preset.findData("auto")))
        self.name = QLineEdit()
        self.name.setPlaceholderText("as the preset")
        self.name.setToolTip(f"Name of the run and its folder in {runs_dir()}")
        self.form = ConfigForm(TRAIN_SIMPLE, _SECTIONS)
        self.plan = PlanView()
        self.train = primary_button("Train")
        self.message = MessageLine()
        self.resume = QPushButton("Resume")
        self.resume.setToolTip("Go on with a training that has not finished")
        self.predict = QPushButton("Predict…")
        self.predict.setToolTip("Open the Predict dock with the model just trained")
        self.view = TrainingView(viewer)
        self.view.hide()
        self.new_labels = NewLabelsPanel(viewer)
        self.new_labels.hide()
        self.scores = ScoreTable()
        self.next = wrapped_label("")

    def _lay_out(self) -> None:
        self.setup = QWidget()
        setup = QVBoxLayout(self.setup)
        setup.setContentsMargins(0, 0, 0, 0)
        rows = narrow_form()
        add_row(rows, "Preset", self.preset)
        add_row(rows, "Run name", self.name)
        setup.addWidget(self.welcome)
        setup.addWidget(self.pairs)
        setup.addWidget(self.annotation)
        setup.addLayout(rows)
        setup.addWidget(self.form)
        setup.addWidget(self.plan)
        setup.addWidget(self.train)
        page = scrolled(self)
        parts: tuple[QWidget, ...] = (
            self.setup,
            self.view,
            self.new_labels,
            self.message,
            self.scores,
            self.resume,
            self.predict,
            self.next,
        )
        for part in parts:
            page.addWidget(part)
        page.addStretch(1)

    def _connect(self) -> None:
        self._check_later = QTimer(self)
        self._check_later.setSingleShot(True)
        self._check_later.setInterval(600)
        self._check_later.timeout.connect(self._check)
        self._watched = Connections(self)
        self._data_version = 0
        self._planner = Planner(self)
        self._planner.asked.connect(self.plan.show_asked)
        self._planner.planned.connect(self.plan.show_plan)
        self._planner.planned.connect(self.annotation.set_plan)
        self._planner.refused.connect(self.plan.show_refusal)
        self.pairs.changed.connect(self._watch_layers)
        self.annotation.changed.connect(self._watch_layers)
        self.annotation.meter.counted.connect(self._show_next)
        self.form.changed.connect(self._check)
        self.preset.activated.connect(self._choose_preset)
        self.train.clicked.connect(self.start)
        self.resume.clicked.connect(self._resume)
        self.predict.clicked.connect(self._open_predict)

    def _open_predict(self) -> None:
        dock = plain(open_dock(self._viewer, "Predict"))
        if self._trained is not None and self._trained.exists():
            dock.add_model(self._trained)

    def _choose_preset(self, *_: object) -> None:
        name = self.preset.currentData()
        if name is None:
            path = QFileDialog.getOpenFileName(
                self, "Settings of a run", "", "YAML (*.yaml *.yml)"
            )[0]
            if not path:
                return
            name = path
        try:
            config = load_config(name)
        except DataError as error:
            self.message.show_error(str(error))
            return
        self.preset.setToolTip(config.description or "Settings to start from")
        self.form.set_value(with_default_device(without_files(config)))
        self.annotation.chooser.take(config.data)

    def _capture(self, *, copy: bool) -> tuple[Config, list[tuple[PairSnapshot, Role]]]:
        annotated = self.annotation.chooser.value()
        snapshots = self.pairs.capture(annotated, copy=copy)
        config = self.form.config()
        data = config.data.model_copy(
            update={
                "annotated": annotated.rule,
                "background_id": annotated.background_id,
            }
        )
        return config.model_copy(update={"data": data}), snapshots

    def _live_pairs(self) -> list[tuple[PairSnapshot, Role]]:
        """Return the chosen pairs as they are, not copied."""
        return self.pairs.capture(self.annotation.chooser.value(), copy=False)

    def _watch_layers(self) -> None:
        """Look again when the chosen layers are painted on or moved."""
        self._watched.close()
        layers = [layer for pair in self.pairs.layers() for layer in pair[:2]]
        for layer in [*layers, self.annotation.chooser.chosen_region()]:
            for name in ("paint", "data", "scale", "translate", "units"):
                if layer is not None and name in layer.events:
                    self._watched.add(getattr(layer.events, name), self._look_later)
        self.annotation.follow()
        self._data_version += 1
        self._check()

    def _look_later(self, event: object = None) -> None:
        self._data_version += 1
        self._check_later.start()

    def _check(self) -> None:
        """Say at once what keeps Train from starting."""
        if self._job is not None:
            return
        try:
            config, snapshots = self._capture(copy=False)
        except DataError as error:
            self._planner.cancel()
            self.plan.clear()
            explain(self.train, "", str(error))
            self.annotation.show_problem(str(error))
            self._show_next()
            return
        explain(self.train, "Start the training in a process of its own")
        self.annotation.meter.show_head(self._voxels())
        self._show_next()
        if self.isVisible():
            self._planner.request(config, snapshots, self._data_version)

    def _show_next(self) -> None:
        image, labels, _ = self.pairs.layers()[0]
        self.welcome.setVisible(image is None)
        words = train_words(
            "running" if self._job is not None else self._outcome,
            image,
            labels,
            self.annotation.n_instances,
            is_ready=self.train.isEnabled(),
        )
        self.next.setText(words)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Plan when the dock comes to the front."""
        super().showEvent(event)
        self._check()

    def _voxels(self) -> str:
        """Return the voxel size of the first image, which decides the network."""
        image = self.pairs.layers()[0][0]
        return "" if image is None else f"Voxel {voxel_words(image)}"

    def start(self) -> None:
        """Start a training on what is chosen; does nothing while one runs."""
        if self._job is not None:
            return
        try:
            config, snapshots = self._capture(copy=True)
        except DataError as error:
            self.message.show_error(str(error))
            return
        name = self.name.text().strip() or config.experiment_name
        job = Job(self._viewer, "train", f"VolSeg training '{name}'")
        unlock = lock_layers([snapshot for snapshot, _ in snapshots])
        job.ready.connect(unlock)
        job.finished.connect(unlock)
        images, labels, _ = zip(*self.pairs.layers(), strict=True)
        job.learnt_from = LearntFrom(images, labels, self.annotation.chooser.value())
        self._attach(job, images)
        job.start(partial(make_run, config, snapshots, name))

    def _resume(self) -> None:
        if self._found is not None and self._job is None:
            self.continue_run(self._found)

    def continue_run(self, run: RunSummary, overrides: Sequence[str] = ()) -> None:
        """Follow a run that trains, or go on with one that has ended.

        Parameters
        ----------
        overrides
            Settings to change before it goes on, as `amend_run` takes them.

        Raises
        ------
        DataError
            If another training runs in this dock.
        """
        if self._job is not None:
            raise DataError(
                "a training runs in the Train dock: stop it, or let it finish, first"
            )
        job = Job(self._viewer, "train", f"VolSeg training '{run.name}'")
        is_running = run.state == "running"
        job.keep_running = is_running
        job.learnt_from = layers_of_run(self._viewer, run.folder)
        self._attach(job, self._images_of(run.folder))
        make = partial(amend_folder, run.folder, overrides)
        job.start(make, resume=not is_running, attach=is_running)

    def use_settings(self, config: Config, name: str) -> None:
        """Fill the form with the settings of a run; layers stay as they are."""
        self.form.set_value(without_files(config))
        self.annotation.chooser.take(config.data)
        self.name.setText(name)
        rule = self.annotation.chooser.rule.currentText()
        self.message.show_text(f"These are the settings of '{name}'; annotated: {rule}")
        self._check()

    def _images_of(self, folder: Path | None) -> list[Layer | None]:
        """Return the image layers that have the names of a run's images."""
        layers = {layer.name: layer for layer in self.pairs.rows[0].image.layers()}
        names = [] if folder is None else pair_names(folder)
        return [layers.get(name) for name in names]

    def _attach(self, job: Job, images: Sequence[Layer | None]) -> None:
        self._planner.close()
        self._job = job
        LivePreview(self._viewer, images, job, self)
        job.finished.connect(self._finish)
        self.view.follow(job)
        if job.learnt_from is None and job.folder is not None:
            job.learnt_from = layers_of_run(self._viewer, job.folder)
        self.new_labels.follow(job, job.learnt_from)
        self.message.clear()
        self.scores.hide()
        self._tidy()
        QTimer.singleShot(0, self._watch_window)

    def _watch_window(self) -> None:
        if self._job is not None:
            self._job.watch_window(self)

    def _finish(self, result: Finished) -> None:
        job, self._job = self._job, None
        folder = None if job is None else job.folder
        if result.reason == "failed":
            self.message.show_error(result.message, folder and folder / LOG)
        else:
            self.message.show_text(result.message)
            if job is not None and job.scored_first is not None:
                self.scores.show_scores(job.scored_first.metrics, result.metrics)
        self._trained = folder / result.path if folder and result.path else None
        self._outcome = "failed" if result.reason == "failed" else "done"
        self._tidy()
        self.predict.setVisible(result.reason != "failed")
        self._look_for_runs()

    def _tidy(self) -> None:
        is_running = self._job is not None
        self.setup.setVisible(not is_running)
        self.predict.hide()
        self.resume.setVisible(self._found is not None and not is_running)
        if is_running:
            self.view.show()
            self._show_next()
        else:
            self._watch_layers()

    def _look_for_runs(self) -> None:
        worker = make_worker(find_unfinished)
        worker.returned.connect(self._offer)
        worker.start()

    def _offer(self, found: RunSummary | None) -> None:
        self._found = found
        if found is not None:
            verb = "Follow" if found.state == "running" else "Resume"
            self.resume.setText(f"{verb} '{found.name}' (step {found.step})")
            self.resume.setToolTip(
                f"{verb} the training in {found.folder}: {found.message or found.state}"
            )
        self.resume.setVisible(found is not None and self._job is None)
