"""Small plots: training curves, profiles of the maps, sizes of instances.

They take their colours from the theme of napari and draw at most a few times a
second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from napari.utils.theme import get_theme
from numpy.typing import NDArray
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_volseg.config import InstancesConfig
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.curves import Curves, shown_range
from napari_volseg.widgets.messages import wrapped_label

__all__ = ["MAP_COLOURS", "THRESHOLDS", "CurvePlot", "Plot", "ProfilePlot", "SizePlot"]

RUN_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#8a7fd0")
"""Of runs over each other, for both themes and most kinds of colour vision."""

OTHER_COLOUR = RUN_COLOURS[0]
"""Of the run that another one is compared with."""
_DARKER = 190
"""Percent by which the accent of a light theme is darkened to be read."""
_REDRAW_MS = 250
_AXIS_WIDTH, _AXIS_HEIGHT = 46, 20
_ROLES = ("mask", "boundary", "distance")
MAP_COLOURS = {"boundary": "#e040e0", "distance": "#35b779"}
"""Of curves; the mask, which is grey, takes the colour of the text."""
THRESHOLDS: Mapping[str, tuple[str, str]] = {
    "mask": ("mask", "seed_mask"),
    "boundary": ("boundary", "seed_boundary"),
    "distance": ("distance", "seed_distance"),
}
"""Which thresholds cut which map: of the object, and of its seed."""


class Plot(QWidget):
    """A plot in the colours of the viewer's theme.

    Parameters
    ----------
    zooms
        Whether the wheel zooms along the horizontal axis and dragging moves along it;
        a double click shows all again.
    """

    def __init__(
        self,
        viewer: Any,
        height: int,
        parent: QWidget | None = None,
        *,
        zooms: bool = False,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.canvas = pg.PlotWidget(background=None)
        self.canvas.setMouseEnabled(zooms, False)
        if zooms:
            self.canvas.scene().sigMouseClicked.connect(self._show_all)
            self.canvas.getViewBox().setAutoVisible(y=True)
        self.canvas.setMenuEnabled(False)
        self.canvas.hideButtons()
        self.canvas.getPlotItem().layout.setContentsMargins(0, 8, 0, 0)
        self.canvas.setMinimumWidth(120)
        self.canvas.setFixedHeight(height)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.canvas)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REDRAW_MS)
        self._timer.timeout.connect(self.redraw)
        self._connections = Connections(self)
        self._connections.add(viewer.events.theme, self._change_theme)
        self._theme = ""

    def _show_all(self, event: Any) -> None:
        if event.double():
            self.follow()

    def follow(self) -> None:
        """Show all that is drawn, and all that will be."""
        self.canvas.enableAutoRange()

    def later(self) -> None:
        """Draw soon; many calls draw once."""
        if not self._timer.isActive():
            self._timer.start()

    def _change_theme(self, event: object = None) -> None:
        self.later()

    def redraw(self) -> None:
        """Draw now, in the colours of the theme."""
        if self._theme != self._viewer.theme:
            self._theme = str(self._viewer.theme)
            theme = get_theme(self._theme)
            text, grid = theme.text.as_rgb_tuple(), theme.secondary.as_rgb_tuple()
            for side in ("left", "bottom", "right"):
                axis = self.canvas.getAxis(side)
                axis.setPen(pg.mkPen(grid))
                axis.setTextPen(pg.mkPen(text))
            accent = pg.mkColor(theme.current.as_rgb_tuple())
            if pg.mkColor(text).lightness() < 128:  # pale on a light background
                accent = accent.darker(_DARKER)
            self.style_content(pg.mkColor(text), accent)
        self.draw()

    def style_content(self, text: Any, accent: Any) -> None:
        """Take the theme's text and accent colours."""

    def draw(self) -> None:
        """Draw the content."""


class CurvePlot(Plot):
    """Training loss on the left axis, validation score on the right."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(viewer, 150, parent, zooms=True)
        self.setAccessibleName("Loss and score during training")
        self.setToolTip(
            "Training loss (left) and F1 of the held-out voxels (right) at each step; "
            "the wheel zooms, a double click shows all"
        )
        self.curves = Curves()
        self.other: Curves | None = None
        """Another run to draw behind this one."""
        plot = self.canvas.getPlotItem()
        plot.showAxis("right")
        for side in ("left", "right"):  # other numbers do not move the plot
            plot.getAxis(side).setWidth(_AXIS_WIDTH)
        plot.getAxis("bottom").setHeight(_AXIS_HEIGHT)
        self._other_loss = plot.plot()
        self._loss = plot.plot()
        self._score = pg.PlotCurveItem()
        self._other_score = pg.PlotCurveItem()
        self._dots = pg.ScatterPlotItem(size=5, pen=None)
        self._right = pg.ViewBox(enableMouse=False)
        plot.scene().addItem(self._right)
        plot.getAxis("right").linkToView(self._right)
        self._right.setXLink(plot.getViewBox())
        self._right.setYRange(0, 1, padding=0.05)
        self._right.addItem(self._other_score)
        self._right.addItem(self._score)
        self._right.addItem(self._dots)
        view = plot.getViewBox()
        view.sigResized.connect(self._align)
        view.disableAutoRange()
        view.sigRangeChangedManually.connect(self._zoomed)
        self._follows = True

    def follow(self) -> None:
        """Show all steps, and those to come."""
        self._follows = True
        self._fit()

    def style_content(self, text: Any, accent: Any) -> None:
        """Colour each curve and its axis alike, which is the legend."""
        plot = self.canvas.getPlotItem()
        plot.getAxis("left").setLabel("loss", color=text.name())
        plot.getAxis("right").setLabel("F1", color=accent.name())
        plot.getAxis("right").setTextPen(pg.mkPen(accent))
        self._loss.setPen(pg.mkPen(text))  # wider pens take ten times as long
        self._score.setPen(pg.mkPen(accent, width=2))
        self._dots.setBrush(pg.mkBrush(accent))
        for line in (self._other_loss, self._other_score):
            line.setPen(pg.mkPen(OTHER_COLOUR))

    def draw(self) -> None:
        """Draw both curves; hide the plot while there is nothing to see."""
        self.setVisible(bool(self.curves.loss))
        _set(self._loss, self.curves.loss)
        _set(self._score, self.curves.score)
        _set(self._dots, self.curves.score)
        other = self.other or Curves()
        _set(self._other_loss, other.loss)
        _set(self._other_score, other.score)
        self._fit()
        self._align()

    def _zoomed(self) -> None:
        self._follows = False
        self._fit()

    def _fit(self) -> None:
        """Show all steps unless the user zoomed, and all losses at these steps."""
        view = self.canvas.getViewBox()
        points = self.curves.loss + (self.other.loss if self.other else [])
        if self._follows:
            first, last = shown_range([step for step, _ in points])
        else:
            first, last = view.viewRange()[0]
        shown = shown_range([loss for step, loss in points if first <= step <= last])
        if view.viewRange() != [[first, last], list(shown)]:
            view.setRange(xRange=(first, last), yRange=shown, padding=0)

    def _align(self) -> None:
        self._right.setGeometry(
            self.canvas.getPlotItem().getViewBox().sceneBoundingRect()
        )


class ProfilePlot(Plot):
    """The three maps along a line, as probabilities."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(viewer, 160, parent)
        self.setAccessibleName("Profile of the three maps")
        self.setToolTip(
            "Mask, boundary and distance along the line, from 0 to 1, and their "
            "thresholds (dashed)"
        )
        self.profile: tuple[NDArray[Any], Mapping[str, NDArray[Any]]] | None = None
        self.unit = "voxels"
        self._legend = wrapped_label("")
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self._legend)
        self.canvas.setYRange(0, 1, padding=0.05)
        self._lines = {role: self.canvas.plot() for role in _ROLES}
        self._colours: dict[str, str] = {}
        self._levels: list[tuple[str, float]] = []
        self.thresholds: list[Any] = []

    def show_thresholds(self, config: InstancesConfig) -> None:
        """Draw a dashed line for each threshold of a map, in the map's colour."""
        levels = [
            (role, value)
            for role, names in THRESHOLDS.items()
            for value in dict.fromkeys(getattr(config, name) for name in names)
            if 0 < value <= 1
        ]
        if levels != self._levels:
            self._levels = levels
            self.later()

    def show_profile(
        self, positions: NDArray[Any], values: Mapping[str, NDArray[Any]], unit: str
    ) -> None:
        """Draw one value a position for each map, 0 to 1."""
        self.profile = (positions, values)
        self.unit = unit
        self.later()

    def style_content(self, text: Any, accent: Any) -> None:
        """Take the colours of the maps; the mask, which is grey, that of the text."""
        self._colours = {role: MAP_COLOURS.get(role, text.name()) for role in _ROLES}
        for role, line in self._lines.items():
            line.setPen(pg.mkPen(self._colours[role], width=1.5))

    def draw(self) -> None:
        """Draw the lines, and name them below."""
        names = (
            f'<span style="color:{c}">{r}</span>' for r, c in self._colours.items()
        )
        self._legend.setText(f"{' · '.join(names)} along the line in {self.unit}")
        if self.profile is not None:
            for role, line in self._lines.items():
                line.setData(self.profile[0], self.profile[1][role])
        for line in self.thresholds:
            self.canvas.removeItem(line)
        self.thresholds = [
            pg.InfiniteLine(
                value,
                angle=0,
                pen=pg.mkPen(self._colours[role], style=Qt.PenStyle.DashLine),
            )
            for role, value in self._levels
        ]
        for line in self.thresholds:
            self.canvas.addItem(line)


class SizePlot(Plot):
    """How many instances have which size."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(viewer, 130, parent)
        self.setAccessibleName("Histogram of instance sizes")
        self.setToolTip("Number of instances by size in voxels (logarithmic)")
        self._sizes: NDArray[np.integer[Any]] = np.zeros(0, int)
        self.canvas.setLabel("bottom", "voxels")
        self.canvas.getAxis("bottom").setHeight(40)
        self.canvas.setLabel("left", "instances")
        self._bars = pg.BarGraphItem(x0=[0], x1=[0], height=[0])
        self.canvas.addItem(self._bars)

    def show_sizes(self, sizes: NDArray[np.integer[Any]]) -> None:
        """Draw the histogram of sizes in voxels."""
        self._sizes = sizes
        self.later()

    def style_content(self, text: Any, accent: Any) -> None:
        """Draw the bars in the accent colour."""
        self._bars.setOpts(brush=accent, pen=None)

    def draw(self) -> None:
        """Draw the bars over a logarithmic axis."""
        counts, edges = np.histogram(np.log10(np.maximum(self._sizes, 1)), bins=24)
        powers = range(int(edges[0]), int(edges[-1]) + 2)
        major = [(power, f"{10**power:,}") for power in powers]
        minor = [(power + np.log10(3), f"{3 * 10**power:,}") for power in powers]
        self.canvas.getAxis("bottom").setTicks([major, minor])
        self._bars.setOpts(x0=edges[:-1], x1=edges[1:], height=counts)


def _set(item: Any, points: Sequence[tuple[float, float]]) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        item.setData(np.asarray(steps, float), np.asarray(values, float))
    else:
        item.setData([], [])
