"""Which instances of a review are listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLineEdit, QWidget

from napari_volseg.review import DOUBTFUL
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.fields import ignore_stray_wheel
from napari_volseg.widgets.form import add_row, narrow_form

__all__ = ["ReviewFilter"]

_FILTERS = {
    "everything": "",
    "doubtful": "doubtful",
    "to do": "todo",
    "accepted": "accepted",
    "corrected": "corrected",
    "rejected": "rejected",
}

Table = Mapping[str, NDArray[Any]]


class ReviewFilter(QWidget):
    """By status, by doubt and by text."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.shown = fit_narrow(QComboBox())
        for text, key in _FILTERS.items():
            self.shown.addItem(text, key)
        self.shown.setToolTip("Which instances are listed")
        self.doubt = QDoubleSpinBox()
        self.doubt.setRange(0, 1)
        self.doubt.setSingleStep(0.05)
        self.doubt.setValue(DOUBTFUL)
        self.doubt.setToolTip(
            "An instance without a status and of at least this doubt is doubtful"
        )
        ignore_stray_wheel(self.doubt)
        self.text = QLineEdit()
        self.text.setPlaceholderText("id or status")
        self.text.setToolTip("List instances whose id or status begins so")
        rows = narrow_form()
        rows.setContentsMargins(0, 0, 0, 0)
        add_row(rows, "Show", self.shown)
        add_row(rows, "Doubtful from", self.doubt)
        add_row(rows, "Find", self.text)
        self.setLayout(rows)
        self.shown.currentIndexChanged.connect(self.changed)
        self.doubt.valueChanged.connect(self.changed)
        self.text.textChanged.connect(self.changed)

    def doubtful(self, table: Table) -> NDArray[np.bool_]:
        """Return which rows are doubtful and have no status."""
        is_high = np.asarray(table["doubt"]) >= self.doubt.value()
        result: NDArray[np.bool_] = is_high & (table["status"] == "todo")
        return result

    def listed(self, table: Table) -> NDArray[np.bool_]:
        """Return which rows are listed."""
        key = self.shown.currentData()
        listed = np.ones(len(table["index"]), bool)
        if key == "doubtful":
            listed = self.doubtful(table)
        elif key:
            listed = table["status"] == key
        text = self.text.text().strip().lower()
        if text:
            ids = np.char.startswith(table["index"].astype(str), text)
            listed = listed & (ids | np.char.startswith(table["status"], text))
        return listed
