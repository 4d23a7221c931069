"""The Runs dock: all trainings, compared, continued, copied, thrown away."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QFile, QTimer, QUrl
from qtpy.QtGui import QDesktopServices, QGuiApplication, QHideEvent, QShowEvent
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QGridLayout,
    QMessageBox,
    QPushButton,
    QWidget,
)

from napari_volseg.errors import DataError
from napari_volseg.runs import RunSummary, is_locked, longer_budget, read_config
from napari_volseg.runs.ownership import in_use_message
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.comparing import MOST, Comparison
from napari_volseg.widgets.fields import ignore_stray_wheel
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.messages import (
    MessageLine,
    count_words,
    explain,
    primary_button,
    scrolled,
    wrapped_label,
)
from napari_volseg.widgets.newest import Newest
from napari_volseg.widgets.preferences import runs_dir
from napari_volseg.widgets.runlist import Listing, RunList, RunReader

if TYPE_CHECKING:
    import napari

__all__ = ["RunsWidget"]

_LOOK_MS = 2000
_FINISHED = ("completed", "converged")
_UNFINISHED = ("stopped", "interrupted", "failed")
_ONE = "Choose one run in the list"


class RunsWidget(QWidget):
    """Look through the runs; those that train elsewhere are followed live."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._reader = RunReader(runs_dir())
        self._make_widgets()
        self._lay_out()
        self._look = Newest(self)
        self._look.returned.connect(self._show)
        self._look.failed.connect(self.message.show_error)
        self._timer = QTimer(self)
        self._timer.setInterval(_LOOK_MS)
        self._timer.timeout.connect(self.refresh)
        self.list.chosen.connect(self._tidy)
        self.list.opened.connect(self._continue)
        for button, action in (
            (self.compare, self._compare),
            (self.go_on, self._continue),
            (self.duplicate, self._duplicate),
            (self.copy, self._copy),
            (self.folder, self._open_folder),
            (self.delete, self._delete),
        ):
            button.clicked.connect(action)
        self._tidy()

    def _make_widgets(self) -> None:
        self.list = RunList()
        self.compare = primary_button("Compare")
        self.go_on = QPushButton("Continue")
        self.duplicate = QPushButton("Duplicate settings")
        self.copy = QPushButton("Copy command")
        self.folder = QPushButton("Open folder")
        self.delete = QPushButton("Delete…")
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(0.5, 10_000)
        self.minutes.setDecimals(1)
        self.minutes.setValue(10)
        self.minutes.setSuffix(" min")
        self.minutes.setToolTip("How long a run that has finished trains on")
        ignore_stray_wheel(self.minutes)
        self.message = MessageLine()
        self.comparison = Comparison(self._viewer)
        self.next = wrapped_label("")

    def _lay_out(self) -> None:
        page = scrolled(self)
        buttons = QGridLayout()
        places = (self.go_on, self.duplicate, self.copy, self.folder)
        for index, button in enumerate(places):
            buttons.addWidget(button, index // 2, index % 2)
        buttons.addWidget(self.delete, 2, 0, 1, 2)
        self._more = QWidget()
        more = narrow_form()
        self._more.setLayout(more)
        add_row(more, "Train on for", self.minutes)
        page.addWidget(self.list, 1)
        page.addWidget(self.compare)
        page.addLayout(buttons)
        page.addWidget(self._more)
        page.addWidget(self.message)
        page.addWidget(self.comparison)
        page.addWidget(self.next)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look at the runs for as long as the dock is seen."""
        super().showEvent(event)
        self.refresh()
        self._timer.start()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Do not look while nobody sees it."""
        super().hideEvent(event)
        self._timer.stop()

    def refresh(self) -> None:
        """Look at the folder of runs, in a thread."""
        self._look.ask(self._reader)

    def _show(self, listing: Listing) -> None:
        if listing.runs_dir != runs_dir():  # another one was chosen in Preferences
            self._reader = RunReader(runs_dir())
        self.list.show_listing(listing)
        self._tidy()

    def _tidy(self) -> None:
        runs = self.list.runs()
        one = runs[0] if len(runs) == 1 else None
        explain(
            self.compare,
            "Show the curves of the chosen runs over each other",
            "Choose two runs or more in the list (Ctrl-click)" * (len(runs) < 2)
            or f"At most {MOST} runs can be told apart" * (len(runs) > MOST),
        )
        is_finished = one is not None and one.state in _FINISHED
        self._more.setVisible(is_finished)
        verb = "Follow" if one is not None and one.state == "running" else "Continue"
        self.go_on.setText("Train on" if is_finished else verb)
        explain(self.go_on, _what_continues(one), _why_not(one))
        explain(
            self.duplicate,
            "Fill the Train dock with the settings of this run",
            _ONE * (one is None),
        )
        explain(
            self.copy,
            "Copy the command that trains anew with the same settings and data",
            _ONE * (one is None),
        )
        explain(
            self.folder,
            "Show the folder of the run with the system's file manager",
            _ONE * (one is None),
        )
        explain(
            self.delete,
            "Move the chosen runs to the trash; you are asked before",
            "Choose runs in the list" * (not runs)
            or "Stop the running ones first"
            * any(run.state == "running" for run in runs),
        )
        self.next.setText(_next_words(self.list.list.count(), runs))

    def _compare(self) -> None:
        self.message.clear()
        self.comparison.compare([run.folder for run in self.list.runs()])

    def _continue(self, *_: object) -> None:
        if not self.go_on.isEnabled():
            return
        (run,) = self.list.runs()
        try:
            overrides: list[str] = []
            if run.state in _FINISHED:
                overrides = longer_budget(run.folder, self.minutes.value())
            open_dock(self._viewer, "Train").continue_run(run, overrides)
        except DataError as error:
            self.message.show_error(str(error))
            return
        self.message.clear()

    def _duplicate(self) -> None:
        (run,) = self.list.runs()
        try:
            config = read_config(run.folder)
            open_dock(self._viewer, "Train").use_settings(config, run.name)
        except DataError as error:
            self.message.show_error(str(error))
            return
        self.message.clear()

    def _copy(self) -> None:
        (run,) = self.list.runs()
        command = shlex.join(["volseg", "train", str(run.folder)])
        clipboard = QGuiApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(command)
        self.message.show_text(f"Copied: {command}")

    def _open_folder(self) -> None:
        (run,) = self.list.runs()
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(run.folder)))

    def _delete(self) -> None:
        runs = self.list.runs()
        if not _confirmed(self, runs):
            return
        failed = [text for run in runs if (text := _throw_away(run.folder))]
        self.comparison.clear()
        if failed:
            self.message.show_error("; ".join(failed))
        else:
            gone = count_words(len(runs), "run")
            self.message.show_text(f"{gone} moved to the trash.")
        self.refresh()


def _what_continues(run: RunSummary | None) -> str:
    if run is not None and run.state == "running":
        return "Follow this training in the Train dock"
    if run is not None and run.state in _FINISHED:
        return "Train this run on from its last checkpoint, in the Train dock"
    return "Go on from the last checkpoint, in the Train dock"


def _why_not(run: RunSummary | None) -> str:
    if run is None:
        return _ONE
    if run.state != "running" and not run.has_checkpoint:
        return "This run saved nothing to go on from: duplicate its settings"
    return ""


def _next_words(n_listed: int, runs: list[RunSummary]) -> str:
    if not n_listed:
        return "What next? There are no runs yet: open the Train dock."
    if not runs:
        return "What next? Choose a run to continue, or several to compare."
    if len(runs) > 1:
        return "What next? Press Compare."
    if runs[0].state in _UNFINISHED and runs[0].has_checkpoint:
        return "What next? Press Continue to go on where it stopped."
    return "What next? Choose another run too, to compare them."


def _confirmed(parent: QWidget, runs: list[RunSummary]) -> bool:
    names = ", ".join(f"'{run.name}'" for run in runs[:5])
    more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
    answer = QMessageBox.question(
        parent,
        "Delete runs",
        f"Move {names}{more} to the trash, with models, checkpoints and predictions?",
        QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel,
        QMessageBox.StandardButton.Cancel,
    )
    return bool(answer == QMessageBox.StandardButton.Yes)


def _throw_away(folder: Path) -> str:
    """Move a run to the trash; return why that did not work, empty when it did."""
    for each in (folder, *(folder / "predictions").glob("*")):
        if is_locked(each):
            return in_use_message(each)
    moved = QFile.moveToTrash(str(folder))
    if moved if isinstance(moved, bool) else moved[0]:
        return ""
    return (
        f"{folder} could not be moved to the trash and stays: delete it in the file "
        "manager if it is to go"
    )
