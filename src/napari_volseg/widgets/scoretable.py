"""The scores of a model before and after a training, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_volseg.widgets.messages import count_words, wrapped_label

__all__ = ["ScoreTable"]

_ROWS = (
    ("f1_50", "F1", 1, "Objects found and not invented: overlap (IoU) above 0.5"),
    ("precision_50", "Precision", 1, "Share of the instances that are true objects"),
    ("recall_50", "Recall", 1, "Share of the true objects that are found"),
    ("pq_50", "Panoptic quality", 1, "F1 times the mean overlap of what was found"),
    ("adapted_rand_error", "Rand error", -1, "Voxels wrongly together or apart"),
)
"""Key, name, whether higher or lower is better, meaning."""


class ScoreTable(QWidget):
    """Two columns of scores; the better one of each line is bold."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.title = wrapped_label("")
        self.cells: dict[str, tuple[QLabel, QLabel]] = {}
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(0, 1)
        for column, head in enumerate(("before", "after"), start=1):
            label = _cell(head)
            label.setEnabled(False)
            grid.addWidget(label, 0, column)
        for row, (key, name, sign, meaning) in enumerate(_ROWS, start=1):
            best = "1 is best" if sign > 0 else "0 is best"
            cells = _cell(""), _cell("")
            named = QLabel(name)
            grid.addWidget(named, row, 0)
            for column, (head, cell) in enumerate(
                zip(("before", "after"), cells, strict=True), start=1
            ):
                cell.setAccessibleName(f"{name} {head}")
                grid.addWidget(cell, row, column)
            for label in (named, *cells):
                label.setToolTip(f"{meaning}; {best}")
            self.cells[key] = cells
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.title)
        layout.addLayout(grid)
        self.hide()

    def show_scores(
        self, before: Mapping[str, float], after: Mapping[str, float]
    ) -> None:
        """Show two scores of the same voxels; each is from `metrics.evaluate`.

        Nothing is shown when the labels of these voxels were changed in between.
        """
        n = int(after.get("n_true", 0))
        self.setVisible(n == int(before.get("n_true", 0)))
        self.title.setText(f"On the same held-out voxels, {count_words(n, 'object')}:")
        for key, _, sign, _ in _ROWS:
            # Rounded as shown, so that of two equal numbers none is bold.
            pair = [round(scores.get(key, nan), 2) for scores in (before, after)]
            for cell, value, other in zip(
                self.cells[key], pair, pair[::-1], strict=True
            ):
                cell.setText("–" if isnan(value) else f"{value:.2f}")
                font = cell.font()
                font.setBold(sign * value > sign * other)
                cell.setFont(font)


def _cell(text: str) -> QLabel:
    label = QLabel(text)
    label.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return label
