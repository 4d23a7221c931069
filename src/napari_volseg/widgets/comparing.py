"""Several runs over each other: their curves, and the settings that differ."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_volseg.comparison import RunFacts, differing_settings, read_facts
from napari_volseg.widgets.messages import (
    duration_words,
    sentence,
    wrapped_label,
)
from napari_volseg.widgets.newest import Newest
from napari_volseg.widgets.plot import RUN_COLOURS, Plot

__all__ = ["MOST", "Comparison", "differences_text"]

MOST = len(RUN_COLOURS)
"""Runs that can be told apart."""
_ROWS = 12


class Comparison(QWidget):
    """Curves of several runs, read in a thread."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.facts: Sequence[RunFacts] = ()
        self.loss = _Overlay(viewer, "loss")
        self.score = _Overlay(viewer, "F1")
        self.legend = wrapped_label("")
        self.differences = wrapped_label("")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.legend, self.loss, self.score, self.differences):
            layout.addWidget(part)
        self._reader = Newest(self)
        self._reader.returned.connect(self._show)
        self._reader.failed.connect(self._refuse)
        self.hide()

    def compare(self, folders: Sequence[Path]) -> None:
        """Show these runs, the first as the baseline."""
        self.show()
        self._reader.ask(_read, tuple(folders))

    def clear(self) -> None:
        """Show nothing."""
        self._reader.forget()
        self.facts = ()
        self.hide()

    def _show(self, facts: Sequence[RunFacts]) -> None:
        self._draw(facts)
        self.legend.setText(_legend(facts))
        self.differences.setText(differences_text(facts))

    def _refuse(self, reason: str) -> None:
        """Say why, and take the curves of other runs away."""
        self._draw(())
        self.legend.setText(f"{sentence(reason)}.")
        self.differences.clear()

    def _draw(self, facts: Sequence[RunFacts]) -> None:
        self.facts = facts
        self.loss.show_curves([run.curves.loss for run in facts])
        self.score.show_curves([run.curves.score for run in facts])


class _Overlay(Plot):
    """One kind of curve of several runs; the wheel zooms, a double click resets."""

    def __init__(self, viewer: Any, what: str, parent: QWidget | None = None) -> None:
        super().__init__(viewer, 140, parent, zooms=True)
        self._what = what
        self._points: Sequence[Sequence[tuple[float, float]]] = ()
        self._lines = [self.canvas.plot() for _ in RUN_COLOURS]
        self.canvas.getAxis("left").enableAutoSIPrefix(False)
        self.setAccessibleName(f"{what} of the compared runs at each step")
        self.setToolTip(
            f"{what[:1].upper()}{what[1:]} at each step; the wheel zooms, a double "
            "click shows all"
        )

    def show_curves(self, points: Sequence[Sequence[tuple[float, float]]]) -> None:
        """Draw one line for each run."""
        self._points = points
        self.later()

    def style_content(self, text: Any, accent: Any) -> None:
        """Name the axis in the colour of the text."""
        self.canvas.getAxis("left").setLabel(self._what, color=text.name())
        for line, colour in zip(self._lines, RUN_COLOURS, strict=True):
            line.setPen(pg.mkPen(colour))

    def draw(self) -> None:
        """Draw all lines."""
        self.setVisible(any(self._points))
        for index, line in enumerate(self._lines):
            points = self._points[index] if index < len(self._points) else ()
            steps, values = np.array(points, float).reshape(-1, 2).T
            line.setData(steps, values)


def _read(folders: Sequence[Path]) -> list[RunFacts]:
    return [read_facts(folder) for folder in folders]


def _legend(facts: Sequence[RunFacts]) -> str:
    lines = []
    for run, colour in zip(facts, RUN_COLOURS, strict=False):
        words = [f"{run.step:,} steps"]
        if run.score is not None:
            words.insert(0, f"F1 {run.score:.2f}")
        if run.seconds is not None:
            words.append(duration_words(run.seconds))
        name = html.escape(run.name)
        lines.append(
            f'<span style="color:{colour}">■</span> {name}: {" · ".join(words)}'
        )
    return "<br>".join(lines)


def differences_text(facts: Sequence[RunFacts]) -> str:
    """Return the settings that are not the same in all runs, one a line."""
    differences = differing_settings(facts)
    if not differences:
        return "All settings are the same."
    lines = [
        f"{key}: {' | '.join(_short(value) for value in values)}"
        for key, values in differences.items()
    ]
    more = len(lines) - _ROWS
    if more > 0:
        lines = [*lines[:_ROWS], f"and {more} more: volseg compare lists them"]
    return "\n".join(["Settings that differ:", *lines])


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:21]}…"
