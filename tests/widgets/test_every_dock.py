"""What holds for every dock of the manifest: explained, and nothing cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from npe2 import PluginManifest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDockWidget,
    QHeaderView,
    QLabel,
    QLineEdit,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QScrollBar,
    QWidget,
)
from superqt import QCollapsible

MANIFEST = PluginManifest.from_distribution("napari-volseg")
DOCKS = {
    widget.display_name: widget.command for widget in MANIFEST.contributions.widgets
}
WIDTH = 300
CONTROLS = (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
)
INSIDE = (QAbstractSpinBox, QComboBox, QAbstractItemView, QScrollBar, QHeaderView)
"""What has parts of its own, which need no words of their own."""


@pytest.fixture(params=DOCKS)
def dock(
    request: pytest.FixtureRequest,
    make_napari_viewer_proxy: Callable[..., Any],
    add_pair: Callable[..., Any],
    qtbot: Any,
) -> QWidget:
    """Each dock in turn, 300 pixels wide, with everything unfolded."""
    viewer = make_napari_viewer_proxy(show=True)
    add_pair(viewer)
    command = next(
        c for c in MANIFEST.contributions.commands if c.id == DOCKS[request.param]
    )
    module, name = str(command.python_name).split(":")
    widget: QWidget = getattr(import_module(module), name)(viewer)
    viewer.window.add_dock_widget(widget, name=f"{request.param} (VolSeg)")
    for fold in widget.findChildren(QCollapsible):
        fold.expand(animate=False)
    make_narrow(widget)
    qtbot.waitUntil(lambda: widget.width() <= WIDTH, timeout=60_000)
    QApplication.processEvents()
    return widget


def make_narrow(widget: QWidget) -> None:
    parent = widget.parentWidget()
    while not isinstance(parent, QDockWidget):
        assert parent is not None
        parent = parent.parentWidget()
    window = parent.parentWidget()
    assert isinstance(window, QMainWindow)
    window.resizeDocks([parent], [WIDTH], Qt.Orientation.Horizontal)
    parent.raise_()


def controls(dock: QWidget) -> Iterator[QWidget]:
    """What the user can change or press, without the parts of which Qt builds it."""
    for child in dock.findChildren(QWidget):
        if not isinstance(child, CONTROLS) or isinstance(child, QScrollBar):
            continue
        parent = child.parentWidget()
        while parent is not None and not isinstance(parent, INSIDE):
            parent = parent.parentWidget()
        if parent is None and not isinstance(child, QHeaderView):
            yield child


def path_of(child: QWidget, dock: QWidget) -> str:
    """Name a widget by the attribute that holds it, and by its text."""
    named = ""
    owner: QWidget | None = child
    while owner is not None and not named:
        for holder in (dock, owner.parentWidget()):
            for name, value in vars(holder).items() if holder is not None else ():
                if value is owner and isinstance(value, QWidget):
                    named = f"{type(holder).__name__}.{name}"
        owner = owner.parentWidget()
    text = getattr(child, "text", str)()
    return f"{named} {type(child).__name__} {child.accessibleName()!r} {text!r}"


def is_explained(control: QWidget) -> bool:
    """Whether a control, or the small whole that it is a part of, has a tooltip."""
    parent = control.parentWidget()
    is_part = isinstance(parent, QWidget) and parent.layout() is not None
    whole = parent.toolTip() if is_part and parent is not None else ""
    return bool(control.toolTip().strip() or whole.strip())


def unexplained(dock: QWidget) -> Iterator[str]:
    """Controls without a tooltip, or whose tooltip is no sentence."""
    for control in controls(dock):
        if not is_explained(control):
            yield f"{path_of(control, dock)} has no tooltip"
        tip = control.toolTip()
        if tip != tip.strip():
            yield f"{path_of(control, dock)}: spaces around the tooltip"
        if isinstance(control, QAbstractButton) and tip[:1].islower():
            yield f"{path_of(control, dock)}: no sentence: {tip}"


def cut_off(dock: QWidget) -> Iterator[str]:
    """Texts that need more room than they have."""
    for child in dock.findChildren(QWidget):
        if not child.isVisible() or not isinstance(child, QLabel | QAbstractButton):
            continue
        width = needed_width(child)
        if child.width() < width:
            yield f"{path_of(child, dock)}: {child.width()} < {width} wide"
        if isinstance(child, QLabel) and child.wordWrap():
            height = child.heightForWidth(child.width())
            if child.height() < height:
                yield f"{path_of(child, dock)}: {child.height()} < {height} high"


def needed_width(child: QLabel | QAbstractButton) -> int:
    if isinstance(child, QLabel) and (child.wordWrap() or not child.text()):
        return 0
    if isinstance(child, QAbstractButton) and not child.text():
        return 0
    return int(child.minimumSizeHint().width())


def sticking_out(dock: QWidget) -> Iterator[str]:
    """Widgets that reach over the right edge, where nobody can scroll."""
    for area in dock.findChildren(QScrollArea):
        page, view = area.widget(), area.viewport()
        assert page is not None
        assert view is not None
        if page.width() > view.width():
            yield f"the page is {page.width()} wide, of which {view.width()} are seen"
        for child in page.findChildren(QWidget):
            right = child.mapTo(page, QPoint(child.width(), 0)).x()
            if child.isVisible() and right > page.width() and not inside(child, page):
                yield f"{path_of(child, dock)} ends at {right} of {page.width()}"


def inside(child: QWidget, page: QWidget) -> bool:
    """Whether a widget scrolls within another one, so that it may be wider."""
    parent = child.parentWidget()
    while parent is not None and parent is not page:
        if isinstance(parent, INSIDE):
            return True
        parent = parent.parentWidget()
    return False


def test_a_dock_explains_itself_and_fits_300_pixels(dock: QWidget) -> None:
    complaints = [*unexplained(dock), *cut_off(dock), *sticking_out(dock)]
    assert not complaints, "\n".join(complaints)


def test_scrolling_past_a_control_changes_nothing(dock: QWidget) -> None:
    dock.window().setFocus()
    for control in controls(dock):
        if isinstance(control, QComboBox | QAbstractSpinBox | QAbstractSlider):
            before = state_of(control)
            scroll_over(control)
            assert state_of(control) == before, path_of(control, dock)


def state_of(control: QWidget) -> object:
    return (
        control.currentIndex()
        if isinstance(control, QComboBox)
        else (
            control.text() if isinstance(control, QAbstractSpinBox) else control.value()
        )
    )


def scroll_over(control: QWidget) -> None:
    """Turn the wheel a notch up and one down over a control."""
    for step in (120, -120, -120):
        event = QWheelEvent(
            QPointF(3, 3),
            QPointF(control.mapToGlobal(QPoint(3, 3))),
            QPoint(),
            QPoint(0, step),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(control, event)


def test_the_rules_find_what_breaks_them(qtbot: Any) -> None:
    page = QWidget()
    qtbot.addWidget(page)
    button = QPushButton("a text that is too long for its button", page)
    button.setFixedWidth(40)
    label = QLabel("several words that need several lines", page)
    label.setWordWrap(True)
    label.setGeometry(0, 40, 60, 8)
    page.show()
    assert len(list(unexplained(page))) == 1
    assert len(list(cut_off(page))) == 2
