"""What every dock needs to talk to the user: lines of text and a scrolled page."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QAbstractButton,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStyle,
    QVBoxLayout,
    QWidget,
)

__all__ = [
    "MessageLine",
    "count_words",
    "duration_words",
    "explain",
    "primary_button",
    "scrolled",
    "sentence",
    "wrapped_label",
]


class MessageLine(QWidget):
    """One sentence for the user, with an icon when it is an error."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icon = QLabel()
        self._text = wrapped_label("")
        self._text.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._log = QPushButton("Show log")
        self._log.setToolTip("Open the log of the worker process")
        self._log.clicked.connect(self._show_log)
        self._path: Path | None = None
        line = QHBoxLayout()
        line.addWidget(self._icon, alignment=Qt.AlignmentFlag.AlignTop)
        line.addWidget(self._text, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(line)
        layout.addWidget(self._log, alignment=Qt.AlignmentFlag.AlignLeft)
        self.clear()

    def text(self) -> str:
        """Return the sentence that is shown, empty when there is none."""
        return self._text.text()

    def is_error(self) -> bool:
        """Whether an error is shown."""
        return bool(self.text()) and self._icon.isVisibleTo(self)

    def clear(self) -> None:
        """Show nothing."""
        self.show_text("")

    def show_text(self, text: str) -> None:
        """Show something that is no error."""
        self._show(text, is_error=False, log=None)

    def show_error(self, text: str, log: Path | None = None) -> None:
        """Show an error, and offer a log file when there is one."""
        self._show(sentence(text), is_error=True, log=log)

    def _show(self, text: str, *, is_error: bool, log: Path | None) -> None:
        self._text.setText(text)
        self._icon.setVisible(is_error)
        if is_error:
            style = self.style()
            assert style is not None
            icon = style.standardIcon(QStyle.StandardPixmap.SP_MessageBoxWarning)
            self._icon.setPixmap(icon.pixmap(16, 16))
        self._path = log if log is not None and log.exists() else None
        self._log.setVisible(self._path is not None)
        self.setVisible(bool(text))

    def _show_log(self) -> None:
        if self._path is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._path)))


def wrapped_label(text: str) -> QLabel:
    """Return a label that wraps, can be selected and never widens a dock."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    policy.setHeightForWidth(True)  # else the layout gives it room for fewer lines
    label.setSizePolicy(policy)
    return label


def primary_button(text: str) -> QPushButton:
    """Return the one button of a dock that does its work."""
    button = QPushButton(text)
    button.setMinimumHeight(32)
    button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return button


def explain(button: QAbstractButton, does: str, because: str = "") -> None:
    """Say what a button does; or disable it and say why it cannot."""
    button.setEnabled(not because)
    button.setToolTip(sentence(because or does))


def scrolled(dock: QWidget) -> QVBoxLayout:
    """Give a dock a page that scrolls up and down only; return its layout."""
    page = QWidget()
    layout = QVBoxLayout(page)
    layout.setContentsMargins(6, 6, 6, 6)
    layout.setSpacing(6)
    area = QScrollArea()
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(page)
    outer = QVBoxLayout(dock)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.addWidget(area)
    dock.setMinimumWidth(280)
    return layout


def count_words(n: int, thing: str) -> str:
    """Return a number of things: 1 instance, 2 instances."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def duration_words(seconds: float) -> str:
    """Return a duration as 0:07, 12:30 or 1:05:00."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def sentence(text: str) -> str:
    """Return a text that begins with a capital letter, as an error's does not."""
    return text[:1].upper() + text[1:]
