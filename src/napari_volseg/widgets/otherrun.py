"""Choose another run to draw behind the curves of the one that trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_volseg.comparison import read_facts
from napari_volseg.runs import RunSummary, list_runs
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.curves import Curves
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.newest import Newest
from napari_volseg.widgets.plot import OTHER_COLOUR

__all__ = ["OtherRun"]

_MOST = 20


class OtherRun(QWidget):
    """A line with the newest other runs; the first choice is none."""

    chosen = Signal(object)
    """The `Curves` of the chosen run, or None."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.runs = fit_narrow(QComboBox())
        self.runs.setToolTip("Another run to draw behind this one, in orange")
        rows = narrow_form()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        label = add_row(rows, "Compare", self.runs)
        label.setText(f'<span style="color:{OTHER_COLOUR}">■</span> Compare')
        self._list = Newest(self)
        self._list.returned.connect(self._show)
        self._read = Newest(self)
        self._read.returned.connect(self.chosen)
        self._read.failed.connect(lambda reason: self.chosen.emit(None))
        self.runs.activated.connect(self._choose)

    def offer(self, folder: Path) -> None:
        """List the runs beside that of a folder, in a thread."""
        self._list.ask(_others, folder)

    def _show(self, runs: Sequence[RunSummary]) -> None:
        chosen = self.runs.currentData()
        self.runs.clear()
        self.runs.addItem("with no other run", None)
        for run in runs:
            score = "" if run.score is None else f" · F1 {run.score:.2f}"
            self.runs.addItem(f"{run.name}{score}", run.folder)
        self.runs.setCurrentIndex(max(0, self.runs.findData(chosen)))
        self.setVisible(bool(runs))

    def _choose(self, *_: object) -> None:
        folder = self.runs.currentData()
        if folder is None:
            self._read.forget()
            self.chosen.emit(None)
        else:
            self._read.ask(_curves, folder)


def _others(folder: Path) -> list[RunSummary]:
    runs = [run for run in list_runs(folder.parent) if run.folder != folder]
    return [run for run in runs if run.step][:_MOST]


def _curves(folder: Path) -> Curves:
    facts = read_facts(folder)
    curves = Curves()
    curves.loss, curves.score = list(facts.curves.loss), list(facts.curves.score)
    return curves
