"""One control for one setting, made from its pydantic field.

Bounds, choices and the tooltip come from the field. A value that a spin box
cannot hold exactly (small floats, sizes, lists, None) is edited as YAML text.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from magicgui.widgets import create_widget
from magicgui.widgets.bases import ValueWidget
from pydantic.fields import FieldInfo
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QDoubleSpinBox,
    QLineEdit,
    QSlider,
    QWidget,
)

from napari_volseg.config import parse_value
from napari_volseg.errors import DataError

__all__ = ["Field", "field_bounds", "ignore_stray_wheel", "make_field"]

_LARGEST = 2**31 - 1
_NARROW = 72
"""Pixels that a control needs at least; docks are narrow."""


class Field:
    """The control of one setting, with its exact value.

    Parameters
    ----------
    key
        Dotted key, for messages.
    widget
        The magicgui widget.
    show, read
        Turn a value into what the widget holds, and back.
    """

    def __init__(
        self,
        key: str,
        widget: ValueWidget[Any],
        show: Callable[[Any], Any],
        read: Callable[[Any], Any],
    ) -> None:
        self.key = key
        self._widget = widget
        self._show = show
        self._read = read

    @property
    def native(self) -> QWidget:
        """The Qt widget."""
        widget: QWidget = self._widget.native
        return widget

    @property
    def changed(self) -> Any:
        """The psygnal of the control: emitted on every edit."""
        return self._widget.changed

    def value(self) -> Any:
        """Return the value, in plain types.

        Raises
        ------
        DataError
            If the text in the control cannot be read.
        """
        shown = self._widget.value
        try:
            return self._read(shown)
        except ValueError:
            raise DataError(
                f"{self.key}: '{shown}' cannot be read as a setting"
            ) from None

    def set_value(self, value: Any) -> None:
        """Show a value exactly."""
        if isinstance(self.native, QDoubleSpinBox):
            exponent = Decimal(repr(value)).normalize().as_tuple().exponent
            self.native.setDecimals(max(2, -int(exponent)))
        self._widget.value = self._show(value)
        if isinstance(self.native, QLineEdit):
            self.native.setCursorPosition(0)  # a long text shows its beginning


def make_field(key: str, info: FieldInfo, value: Any) -> Field:
    """Return the control of a field, showing a value."""
    kind = info.annotation
    low, high = field_bounds(info)
    is_fraction = kind is float and low is not None and high is not None
    options: dict[str, Any] = {"tooltip": info.description or ""}
    show: Callable[[Any], Any] = _same
    read: Callable[[Any], Any] = _same
    if kind is bool:
        options |= {"widget_type": "CheckBox", "text": ""}
    elif get_origin(kind) is Literal:
        options |= {"widget_type": "ComboBox", "choices": list(get_args(kind))}
    elif kind is int:
        options |= {"widget_type": "SpinBox", "min": low or 0, "max": high or _LARGEST}
    elif is_fraction:
        options |= {"widget_type": "FloatSpinBox", "min": low, "max": high}
        options["step"] = 0.05
    elif kind is str:
        options["widget_type"] = "LineEdit"
    else:
        options["widget_type"] = "LineEdit"
        is_list = _is_tuple(kind)
        show, read = (_list_text, _read_list) if is_list else (_text, parse_value)
        if is_list and not _is_optional(kind):
            read = _read_full_list
    widget_type = options.pop("widget_type")
    widget = create_widget(widget_type=widget_type, name=key, options=options)
    assert isinstance(widget, ValueWidget)
    field = Field(key, widget, show, read)
    if isinstance(field.native, QAbstractButton):
        field.native.setText("")  # the row has a label
    if _is_optional(kind):
        field.native.setPlaceholderText("not set")  # type: ignore[attr-defined]
    field.native.setAccessibleName(key)
    field.native.setMinimumWidth(_NARROW)
    ignore_stray_wheel(field.native)
    field.set_value(value)
    return field


class _WheelFilter(QObject):
    """Keeps the wheel from changing a control that it only scrolls past."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if (
            event is not None
            and event.type() == QEvent.Type.Wheel
            and isinstance(watched, QWidget)
            and not watched.hasFocus()
        ):
            event.ignore()
            return True
        return False


def ignore_stray_wheel(widget: QWidget) -> None:
    """Make a control of a scrolled dock change by wheel only when it has focus."""
    # A slider with a number beside it is two controls in one.
    parts = [*widget.findChildren(QSlider), *widget.findChildren(QAbstractSpinBox)]
    for part in (widget, *parts):
        part.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        part.installEventFilter(_WheelFilter(part))


def field_bounds(info: FieldInfo) -> tuple[Any, Any]:
    """Return the inclusive bounds of a field; a spin box has no others."""
    low = high = None
    for constraint in info.metadata:
        low = getattr(constraint, "ge", low)
        high = getattr(constraint, "le", high)
    return low, high


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _is_tuple(kind: Any) -> bool:
    kinds = get_args(kind) if _is_optional(kind) else (kind,)
    return any(get_origin(each) is tuple or _is_annotated_tuple(each) for each in kinds)


def _is_annotated_tuple(kind: Any) -> bool:
    return bool(get_args(kind)) and get_origin(get_args(kind)[0]) is tuple


def _same(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return (
        ""
        if value is None
        else f"{value!r}"
        if isinstance(value, float)
        else f"{value}"
    )


def _list_text(value: Any) -> str:
    if value is None:
        return ""
    return yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6).strip()[
        1:-1
    ]


def _read_list(text: str) -> Any:
    if not text.strip():
        return None
    value = parse_value(f"[{text}]")
    if not isinstance(value, list):
        raise ValueError(text)
    return value


def _read_full_list(text: str) -> Any:
    """Return a list where nothing is not the same as no list."""
    return _read_list(text) or []


def _plain(value: Any) -> Any:
    return (
        [_plain(item) for item in value] if isinstance(value, list | tuple) else value
    )
