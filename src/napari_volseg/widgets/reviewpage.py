"""What the Review dock shows, and where."""

from __future__ import annotations

from typing import Any

from napari.layers import Labels
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from napari_volseg.review import Helper
from napari_volseg.widgets.combos import LayerCombo
from napari_volseg.widgets.drawing import DrawButton
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.instancetable import InstanceTable
from napari_volseg.widgets.keys import Keys
from napari_volseg.widgets.messages import (
    MessageLine,
    primary_button,
    scrolled,
    wrapped_label,
)
from napari_volseg.widgets.reshape import ReshapePanel
from napari_volseg.widgets.reviewbuttons import ReviewButtons
from napari_volseg.widgets.reviewcolumns import COLUMNS
from napari_volseg.widgets.reviewexport import ExportRow
from napari_volseg.widgets.reviewfilter import ReviewFilter
from napari_volseg.widgets.reviewstart import Starter
from napari_volseg.widgets.splitting import Splitter

__all__ = ["ReviewPage"]


class ReviewPage(QWidget):
    """The widgets, which do nothing by themselves yet."""

    _keys: Keys

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer: Any = viewer
        self._helper = Helper()

    def _make_widgets(self) -> None:
        self.labels = LayerCombo(self._viewer, (Labels,))
        self.labels.setToolTip("The instances to review")
        self.begin = primary_button("Review")
        self.summary = wrapped_label("")
        self.bar = QProgressBar()
        self.bar.setFormat("%v of %m reviewed")
        self.bar.setToolTip("Instances with a status")
        self.filter = ReviewFilter()
        self.table = InstanceTable(COLUMNS)
        self.table.setToolTip("Click a line to go there; several with Ctrl or Shift")
        self.table.setAccessibleName("Instances")
        self.alone = QCheckBox("Show only what is chosen")
        self.alone.setToolTip("Hide all other instances in the viewer")
        self.buttons = ReviewButtons()
        self.splitter = Splitter(self._viewer, self._keys, self)
        self.lasso = DrawButton(
            "Lasso",
            self._viewer,
            "add_polygon_lasso",
            "Draw around the instances: drag, or click twice.",
        )
        self.reshape = ReshapePanel(self._viewer)
        self.files = ExportRow()
        self.train = primary_button("Train on corrections")
        self.starter = Starter(self._viewer, self._helper, self)
        self.message = MessageLine()
        self.next = wrapped_label("")

    def _lay_out(self) -> None:
        page = scrolled(self)
        rows = narrow_form()
        add_row(rows, "Labels", self.labels)
        page.addLayout(rows)
        page.addWidget(self.begin)
        self.body = QWidget()
        body = QVBoxLayout(self.body)
        body.setContentsMargins(0, 0, 0, 0)
        body.addWidget(self.summary)
        body.addWidget(self.bar)
        body.addWidget(self.filter)
        body.addWidget(self.table, 1)
        line = QHBoxLayout()
        line.addWidget(self.alone, 1)
        line.addWidget(self.lasso)
        body.addLayout(line)
        body.addWidget(self.buttons)
        body.addWidget(self.splitter)
        body.addWidget(self.reshape)
        body.addWidget(self.files)
        body.addWidget(self.train)
        page.addWidget(self.body, 1)
        page.addWidget(self.message)
        page.addWidget(self.next)
