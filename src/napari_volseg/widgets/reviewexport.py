"""Save a review, and write its table and surfaces to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QWidget

from napari_volseg.review import Helper, write_table
from napari_volseg.review.surfaces import Faces, Vertices, write_obj, write_ply
from napari_volseg.widgets.messages import count_words, explain
from napari_volseg.widgets.reviewing import Reviewing
from napari_volseg.widgets.threads import in_thread

__all__ = ["ExportRow", "export_surfaces", "export_table"]


class ExportRow(QWidget):
    """Three buttons."""

    save_asked = Signal()
    table_asked = Signal(str)
    surfaces_asked = Signal(str)
    """With the file to write."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.save = QPushButton("Save")
        self.table = QPushButton("Table…")
        self.surfaces = QPushButton("Surfaces…")
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        for button in (self.save, self.table, self.surfaces):
            line.addWidget(button)
        self.save.clicked.connect(self.save_asked)
        self.table.clicked.connect(self._ask_table)
        self.surfaces.clicked.connect(self._ask_surfaces)

    def tidy(self, n: int, because: str, *, is_saved: bool, unsaved: str) -> None:
        """Enable the buttons, or say why not.

        Parameters
        ----------
        n
            How many instances are chosen.
        because
            Why nothing can be done now.
        unsaved
            Why the review cannot be saved at all.
        """
        explain(
            self.save,
            "Save the review now; it is also saved as it goes on",
            because or unsaved or "Everything is saved" * is_saved,
        )
        explain(self.table, "Write all rows and their statuses as CSV", because)
        explain(
            self.surfaces,
            "Write the surfaces of the chosen instances as OBJ or PLY, in nm",
            because or "Choose the instances in the table" * (n == 0),
        )

    def _ask_table(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Write the table", "instances.csv", "CSV (*.csv)"
        )
        if path:
            self.table_asked.emit(path)

    def _ask_surfaces(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Write surfaces", "instances.ply", "Surfaces (*.ply *.obj)"
        )
        if path:
            self.surfaces_asked.emit(path)


def export_table(
    reviewing: Reviewing,
    path: Path,
    told: Callable[[str], None],
    lose: Callable[[str], None],
) -> None:
    """Write the table with statuses, authors and times, in a thread."""
    columns = {**reviewing.review.table, **_mark_columns(reviewing)}
    n = len(columns["index"])

    def done(_: object) -> None:
        told(f"{count_words(n, 'instance')} written to {path}.")

    in_thread(partial(write_table, path, columns), done, lose, reviewing)


def export_surfaces(
    reviewing: Reviewing,
    helper: Helper,
    ids: Sequence[int],
    path: Path,
    told: Callable[[str], None],
    lose: Callable[[str], None],
) -> None:
    """Write the surfaces of instances: OBJ if the path says so, else PLY."""
    review = reviewing.review
    crops = {
        label: (box.start, review.labels_ZYX[box.slices] == label)
        for label, box in review.boxes(ids).items()
    }
    voxel_size = review.voxel_size

    def work() -> int:
        meshes: dict[int, tuple[Vertices, Faces]] = {}
        for label, (start, inside) in crops.items():
            options = {"start": start, "voxel_size": voxel_size}
            answer, _ = helper.ask("mesh", {"object": inside}, options)
            meshes[label] = answer["vertices"], answer["faces"]
        write = write_obj if path.suffix.lower() == ".obj" else write_ply
        write(path, meshes)
        return len(meshes)

    def done(n: int) -> None:
        told(f"{count_words(n, 'surface')} written to {path}.")

    in_thread(work, done, lose, reviewing)


def _mark_columns(reviewing: Reviewing) -> dict[str, NDArray[Any]]:
    """Return status, author and time of every row."""
    index = reviewing.review.table["index"].tolist()
    marks = [reviewing.review.marks.get(label) for label in index]
    return {
        "status": reviewing.review.statuses(),
        "author": np.array([m.author if m else "" for m in marks], str),
        "time": np.array([m.time if m else "" for m in marks], str),
    }
