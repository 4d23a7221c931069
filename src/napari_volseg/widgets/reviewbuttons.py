"""The buttons of a review, each with its key."""

from __future__ import annotations

from dataclasses import dataclass

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QPushButton, QWidget

from napari_volseg.review import History
from napari_volseg.widgets.messages import explain

__all__ = ["KEYS", "ReviewButtons"]


@dataclass(frozen=True)
class _Action:
    text: str
    key: str
    row: int
    column: int
    span: int


_ACTIONS = {
    "previous": _Action("‹ Doubtful", "Shift-N", 0, 0, 3),
    "next": _Action("Doubtful › (N)", "N", 0, 3, 3),
    "accept": _Action("Accept (A)", "A", 1, 0, 3),
    "reject": _Action("Reject (R)", "R", 1, 3, 3),
    "merge": _Action("Merge (M)", "M", 2, 0, 2),
    "split": _Action("Split (S)", "S", 2, 2, 2),
    "delete": _Action("Delete (D)", "D", 2, 4, 2),
    "undo": _Action("Undo (U)", "U", 3, 0, 3),
    "redo": _Action("Redo", "Shift-U", 3, 3, 3),
}
KEYS = {action.key: name for name, action in _ACTIONS.items()}
"""Which key does what."""


class ReviewButtons(QWidget):
    """Go on, judge, edit, and take back."""

    pressed = Signal(str)
    """What: a value of `KEYS`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.buttons: dict[str, QPushButton] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        for name, action in _ACTIONS.items():
            button = self.buttons[name] = QPushButton(action.text)
            button.clicked.connect(lambda _=False, name=name: self.pressed.emit(name))
            grid.addWidget(button, action.row, action.column, 1, action.span)
        for column in range(6):
            grid.setColumnStretch(column, 1)

    def tidy(
        self, n: int, wait: str, history: History, *, is_splitting: bool = False
    ) -> None:
        """Enable what can be pressed, and say why the rest cannot.

        Parameters
        ----------
        n
            How many instances are chosen.
        wait
            Why nothing can be pressed now, empty when something can.
        """
        any_one = "Choose an instance in the table, or click it" * (n == 0)
        tips = {
            "previous": ("Go to the previous doubtful instance", ""),
            "next": ("Go to the next doubtful instance", ""),
            "accept": ("This instance is right", any_one),
            "reject": ("This instance is wrong, and stays so for now", any_one),
            "merge": (
                "Join the chosen instances; Shift and a click choose several",
                "Choose two instances or more" * (n < 2),
            ),
            "split": (
                "Split by the points that are set"
                if is_splitting
                else "Split the instance between points, or along a line",
                "Choose one instance" * (n != 1 and not is_splitting),
            ),
            "delete": ("Make the chosen instances background", any_one),
            "undo": (
                f"Take back: {history.done[-1].words}" if history.done else "",
                "" if history.done else "Nothing to take back",
            ),
            "redo": (
                f"Do again: {history.undone[-1].words}" if history.undone else "",
                "" if history.undone else "Nothing to do again",
            ),
        }
        for name, (does, because) in tips.items():
            explain(
                self.buttons[name], f"{does} ({_ACTIONS[name].key})", wait or because
            )
