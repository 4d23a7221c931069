"""Change outlines with the maps: grow, shrink, fill, segment again."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_volseg.widgets.drawing import DrawButton
from napari_volseg.widgets.fields import ignore_stray_wheel
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.messages import explain
from napari_volseg.widgets.thresholds import ThresholdPanel

__all__ = ["ReshapePanel"]

_TIPS = {
    "grow": "Let the chosen instances take free voxels around them from the mask",
    "shrink": "Take the voxels below the mask away from the chosen instances",
    "fill": "Fill what the chosen instances enclose, in space and in each slice",
}
_NO_MAPS = "There are no maps of these voxels: predict the image, and keep its maps"


class ReshapePanel(QWidget):
    """Folded away until it is needed."""

    asked = Signal(str)
    """grow, shrink or fill."""
    segment_asked = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.threshold = QDoubleSpinBox()
        self.threshold.setRange(0.01, 0.99)
        self.threshold.setSingleStep(0.05)
        self.threshold.setValue(0.5)
        self.threshold.setToolTip("Mask above which a voxel belongs to an instance")
        self.reach = _voxels(8, "How many voxels an instance may grow at once")
        self.margin = _voxels(
            8,
            "How far the box reaches beyond the chosen instances, or beyond the slice "
            "in which a box is drawn",
        )
        self.buttons = {
            name: QPushButton(name.capitalize()) for name in ("grow", "shrink", "fill")
        }
        for name, button in self.buttons.items():
            button.clicked.connect(lambda _=False, name=name: self.asked.emit(name))
        self.thresholds = ThresholdPanel()
        self.segment = QPushButton("Chosen ones")
        self.segment.clicked.connect(self.segment_asked)
        self.box = DrawButton(
            "Box…",
            viewer,
            "add_rectangle",
            "Drag a rectangle around what is to be segmented again.",
        )
        ignore_stray_wheel(self.threshold)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._outline())
        layout.addWidget(self._again())

    def _outline(self) -> QCollapsible:
        page = QWidget()
        inner = QVBoxLayout(page)
        inner.setContentsMargins(0, 0, 0, 0)
        rows = narrow_form()
        add_row(rows, "Mask above", self.threshold)
        add_row(rows, "Grow at most", self.reach)
        inner.addLayout(rows)
        line = QHBoxLayout()
        for button in self.buttons.values():
            line.addWidget(button)
        inner.addLayout(line)
        return _folded("Outline", "Grow, shrink or fill the chosen instances", page)

    def _again(self) -> QCollapsible:
        page = QWidget()
        inner = QVBoxLayout(page)
        inner.setContentsMargins(0, 0, 0, 0)
        rows = narrow_form()
        add_row(rows, "Margin", self.margin)
        inner.addLayout(rows)
        inner.addWidget(self.thresholds)
        line = QHBoxLayout()
        line.addWidget(self.segment)
        line.addWidget(self.box)
        inner.addLayout(line)
        return _folded(
            "Segment again", "Make instances of a box with other thresholds", page
        )

    def tidy(self, wait: str, n: int, *, has_maps: bool) -> None:
        """Enable the buttons, or say why not.

        Parameters
        ----------
        wait
            Why nothing can be done now, empty otherwise.
        n
            How many instances are chosen.
        """
        because = wait or "Choose an instance in the table, or click it" * (n == 0)
        for name, button in self.buttons.items():
            needs = name != "fill" and not has_maps
            explain(button, _TIPS[name], because or _NO_MAPS * needs)
        explain(
            self.segment,
            "Replace the chosen instances by what these thresholds make of the maps",
            because or _NO_MAPS * (not has_maps),
        )
        explain(
            self.box,
            "Draw a box: what lies in it as a whole is replaced by what these "
            "thresholds make of the maps, what reaches out of it stays",
            wait or _NO_MAPS * (not has_maps),
        )


def _voxels(value: int, tip: str) -> QSpinBox:
    box = QSpinBox()
    box.setRange(1, 64)
    box.setValue(value)
    box.setSuffix(" voxels")
    box.setToolTip(tip)
    ignore_stray_wheel(box)
    return box


def _folded(title: str, tip: str, page: QWidget) -> QCollapsible:
    fold = QCollapsible(title)
    fold.setDuration(0)
    fold.setToolTip(tip)
    fold.addWidget(page)
    for outer in (fold, fold.content()):
        margins = outer.layout()
        if margins is not None:
            margins.setContentsMargins(0, 0, 0, 0)
    return fold
