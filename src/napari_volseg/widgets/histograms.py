"""How often each value occurs in a map, with the thresholds to be dragged."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.widgets.combos import fit_narrow
from napari_volseg.widgets.fields import field_bounds
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.newest import Newest
from napari_volseg.widgets.outputs import MAPS
from napari_volseg.widgets.plot import MAP_COLOURS, THRESHOLDS, Plot
from napari_volseg.widgets.predictions import PredictionCombo
from napari_volseg.widgets.thresholds import ThresholdPanel

__all__ = ["HistogramPart", "HistogramPlot", "count_values"]

_BLOCK = (16, 128, 128)
_EDGES = (np.arange(257) - 0.5) / 255
_MAX_BLOCKS = 32
"""Blocks of 2¹⁸ voxels that are counted of each map; more would look the same."""


class HistogramPlot(Plot):
    """The values of one map; its thresholds are lines that can be dragged."""

    def __init__(self, viewer: Any, role: str, thresholds: ThresholdPanel) -> None:
        super().__init__(viewer, 112)
        self.role = role
        self._thresholds = thresholds
        self._colour = MAP_COLOURS.get(role)
        self._counts: NDArray[np.int64] = np.zeros(256, np.int64)
        self.setAccessibleName(f"Histogram of the {role}")
        self.setToolTip(
            f"How often each value of the {role} occurs, logarithmic. Drag a line to "
            "move its threshold"
        )
        plot = self.canvas.getPlotItem()
        plot.hideAxis("left")
        plot.getAxis("bottom").setHeight(40)
        highest = max(
            float(field_bounds(InstancesConfig.model_fields[name])[1])
            for name in THRESHOLDS[role]
        )
        plot.setXRange(0, highest, padding=0.02)
        plot.setYRange(0, 1, padding=0)
        self._curve = pg.PlotCurveItem(
            _EDGES, np.zeros(256), stepMode="center", fillLevel=0, pen=None
        )
        plot.addItem(self._curve)
        self.lines = {name: self._make_line(name) for name in THRESHOLDS[role]}

    def _make_line(self, name: str) -> Any:
        info = InstancesConfig.model_fields[name]
        is_seed = name.startswith("seed_")
        line = pg.InfiniteLine(
            movable=True,
            bounds=field_bounds(info),
            label="seed" if is_seed else "object",
            labelOpts={"position": 0.6 if is_seed else 0.9, "movable": False},
        )
        line.setToolTip(f"{info.description} Drag it.")
        line.sigPositionChanged.connect(partial(self._drag, name))
        self.canvas.addItem(line)
        return line

    def show_counts(self, counts: NDArray[np.int64]) -> None:
        """Draw how often each of the values 0 to 255 occurs."""
        self._counts = counts
        self.later()

    def show_thresholds(self, config: InstancesConfig) -> None:
        """Move the lines, without saying that they moved."""
        for name, line in self.lines.items():
            line.blockSignals(True)
            line.setValue(getattr(config, name))
            line.blockSignals(False)

    def style_content(self, text: Any, accent: Any) -> None:
        """Take the colour of the map, and that of the text for the lines."""
        colour = pg.mkColor(self._colour or text.name())
        colour.setAlpha(130)
        self._curve.setBrush(pg.mkBrush(colour))
        for name, line in self.lines.items():
            dash = Qt.PenStyle.DashLine if name.startswith("seed_") else None
            pen = {} if dash is None else {"style": dash}
            line.setPen(pg.mkPen(text, width=1, **pen))
            line.setHoverPen(pg.mkPen(accent, width=2, **pen))
            line.label.setColor(text)
        self.canvas.getPlotItem().getAxis("bottom").setLabel(
            self.role, color=colour.name()
        )

    def draw(self) -> None:
        """Draw the counts as shares of the highest, on a logarithmic axis."""
        heights = np.log1p(self._counts) / np.log1p(max(1, self._counts.max()))
        self._curve.setData(_EDGES, heights)

    def _drag(self, name: str, line: Any) -> None:
        self._thresholds.controls[name].setValue(round(float(line.value()), 2))


class HistogramPart(QWidget):
    """Choose a map, see how its values are spread, drag its thresholds."""

    def __init__(
        self, viewer: Any, prediction: PredictionCombo, thresholds: ThresholdPanel
    ) -> None:
        super().__init__()
        self._prediction = prediction
        self._thresholds = thresholds
        self._counted: str | None = None
        self._newest = Newest(self)
        self._newest.returned.connect(self._show)
        self.choice = fit_narrow(QComboBox())
        self.choice.addItems(["off", *MAPS, "all maps"])
        self.choice.setToolTip(
            "How often each value of a map occurs, with its thresholds as lines to drag"
        )
        rows = narrow_form()
        add_row(rows, "Histogram", self.choice)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        self.plots = {role: HistogramPlot(viewer, role, thresholds) for role in MAPS}
        for plot in self.plots.values():
            layout.addWidget(plot)
            plot.hide()
        self.choice.currentTextChanged.connect(self._choose)
        thresholds.changed.connect(self._follow)

    def refresh(self) -> None:
        """Count again: another prediction is shown, or it has more values now."""
        self._counted = None
        self._choose(self.choice.currentText())

    def show_thresholds(self, config: InstancesConfig) -> None:
        """Move the lines of all plots."""
        for plot in self.plots.values():
            plot.show_thresholds(config)

    def _follow(self) -> None:
        self.show_thresholds(self._thresholds.value())

    def _choose(self, choice: str) -> None:
        for role, plot in self.plots.items():
            plot.setVisible(choice in (role, "all maps"))
        self._follow()
        shown = self._prediction.prediction()
        if choice == "off" or shown is None or self._counted == shown.key:
            return
        self._counted = shown.key
        self._newest.ask(count_values, dict(zip(MAPS, shown.maps, strict=True)))

    def _show(self, counts: Mapping[str, NDArray[np.int64]]) -> None:
        for role, plot in self.plots.items():
            plot.show_counts(counts[role])


def count_values(maps: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
    """Return how often each of the values 0 to 255 occurs in each map.

    Of large maps, blocks that are spread over them evenly are counted. They may be
    read from a file, so call it in a thread.
    """
    shape = next(iter(maps.values())).shape
    blocks = _spread_blocks(shape)
    counts = {}
    for role, data in maps.items():
        total = np.zeros(256, np.int64)
        for block in blocks:
            values = np.asarray(data[block.slices]).reshape(-1)
            total += np.bincount(values, minlength=256)
        counts[role] = total
    return counts


def _spread_blocks(shape_ZYX: tuple[int, ...]) -> list[Box]:
    """Return all blocks of a small volume, or some that are spread over a large one."""
    grid = [max(1, -(-n // b)) for n, b in zip(shape_ZYX, _BLOCK, strict=True)]
    n = int(np.prod(grid))
    numbers = np.unique(np.linspace(0, n - 1, min(n, _MAX_BLOCKS)).round().astype(int))
    blocks = []
    for place in np.stack(np.unravel_index(numbers, grid), axis=1):
        start = [int(i) * b for i, b in zip(place, _BLOCK, strict=True)]
        stop = [min(a + b, n) for a, b, n in zip(start, _BLOCK, shape_ZYX, strict=True)]
        blocks.append(Box(tuple(start), tuple(stop)))  # type: ignore[arg-type]
    return blocks
