"""The part of the Predict dock that chooses a model."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QPushButton, QWidget

from napari_volseg.errors import DataError
from napari_volseg.models import ModelInfo, read_model_info
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.modellist import find_models, model_identity, model_words
from napari_volseg.widgets.preferences import runs_dir
from napari_volseg.widgets.threads import make_worker

__all__ = ["ModelPart"]


class ModelPart(QWidget):
    """The models in the folder of runs, newest first, and others by browsing."""

    changed = Signal()
    """Another model is chosen."""
    listed = Signal()
    """The folder of runs was looked through."""
    failed = Signal(str)
    """A file that was browsed for is no model, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[ModelInfo] = []
        self.combo = fit_narrow(QComboBox())
        self.combo.setMinimumContentsLength(6)
        self.combo.setToolTip("The model, newest first: name · score · age")
        self.browse = QPushButton("…")
        self.browse.setToolTip("Browse for a model.safetensors elsewhere")
        self.browse.setAccessibleName("Browse for a model")
        self.browse.setMaximumWidth(32)
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        line.addWidget(self.combo, 1)
        line.addWidget(self.browse)
        self.combo.currentIndexChanged.connect(self._report)
        self.browse.clicked.connect(self._browse)

    def refresh(self) -> None:
        """Look for models in the folder of runs, in a thread."""
        worker = make_worker(find_models)
        worker.returned.connect(self._list)
        worker.start()

    def model(self) -> ModelInfo | None:
        """Return the chosen model, None when there is none."""
        index = self.combo.currentIndex()
        return self.models[index] if 0 <= index < len(self.models) else None

    def choose_newest(self) -> None:
        """Choose the first in the list."""
        self.combo.setCurrentIndex(0 if self.models else -1)

    def choose(self, path: Path) -> bool:
        """Choose a model that is listed; return whether it is."""
        for index, model in enumerate(self.models):
            if model.path == path:
                self.combo.setCurrentIndex(index)
                return True
        return False

    def add(self, path: Path) -> None:
        """Choose a model file from anywhere."""
        try:
            model = read_model_info(path)
        except DataError as error:
            self.failed.emit(str(error))
            return
        self.failed.emit("")
        self._fill([*(other for other in self.models if other.path != path), model])
        self.choose(path)

    def _list(self, models: list[ModelInfo]) -> None:
        chosen = self.model()
        newest = self.models[0].path if self.models else None
        browsed = [m for m in self.models if m.path.parent.parent != runs_dir()]
        paths = {model.path for model in models}
        models = [*models, *(m for m in browsed if m.path not in paths)]
        old, new = map(model_identity, self.models), map(model_identity, models)
        if list(new) != list(old):
            self._fill(models)
            # A newer model is what people mean, unless they chose an older one.
            if chosen is not None and chosen.path != newest:
                self.choose(chosen.path)
        self.listed.emit()

    def _fill(self, models: list[ModelInfo]) -> None:
        self.combo.blockSignals(True)
        self.models = models
        self.combo.clear()
        for row, model in enumerate(models):
            self.combo.addItem(model_words(model))
            self.combo.setItemData(row, str(model.path), Qt.ItemDataRole.ToolTipRole)
        self.combo.blockSignals(False)
        self._report()

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Choose a model", str(runs_dir()), "Model (*.safetensors)"
        )
        if path:
            self.add(Path(path))

    def _report(self, *_: object) -> None:
        model = self.model()
        if model is not None:
            self.combo.setToolTip(f"{model.path}\n{model.architecture}")
        self.changed.emit()
