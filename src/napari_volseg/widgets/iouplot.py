"""Scores over the overlap from which an instance counts as found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QWidget

from napari_volseg.widgets.messages import wrapped_label
from napari_volseg.widgets.plot import Plot

__all__ = ["IouPlot"]


class IouPlot(Plot):
    """F1 and accuracy for every IoU from which an instance counts as found."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(viewer, 150, parent)
        self.setAccessibleName("Scores over the IoU")
        self.setToolTip(
            "F1 and accuracy, TP / (TP + FP + FN), when an instance counts as found "
            "from this IoU on"
        )
        self._curves: Mapping[str, Sequence[float]] = {}
        self._legend = wrapped_label("")
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self._legend)
        self.canvas.setYRange(0, 1, padding=0.05)
        self._lines = {name: self.canvas.plot() for name in ("f1", "accuracy")}

    def show_curves(self, curves: Mapping[str, Sequence[float]]) -> None:
        """Draw ``f1`` and ``accuracy`` over ``iou``."""
        self._curves = curves
        self.later()

    def style_content(self, text: Any, accent: Any) -> None:
        """Take the theme's text and accent colours."""
        self._lines["f1"].setPen(pg.mkPen(accent, width=2))
        self._lines["accuracy"].setPen(pg.mkPen(text))
        self._legend.setText(
            f'<span style="color:{accent.name()}">F1</span> · '
            f'<span style="color:{text.name()}">accuracy</span> over the IoU'
        )

    def draw(self) -> None:
        """Draw both curves."""
        for name, line in self._lines.items():
            line.setData(
                np.asarray(self._curves.get("iou", ()), float),
                np.asarray(self._curves.get(name, ()), float),
            )
