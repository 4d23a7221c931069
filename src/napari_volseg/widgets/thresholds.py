"""A slider for every threshold of the watershed, made from its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic.fields import FieldInfo
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QSpinBox, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

from napari_volseg.config import InstancesConfig
from napari_volseg.widgets.fields import field_bounds, ignore_stray_wheel
from napari_volseg.widgets.form import add_row, narrow_form

__all__ = ["ThresholdPanel"]


class ThresholdPanel(QWidget):
    """Edit an `InstancesConfig`; says so at every move."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._config = InstancesConfig()
        self.controls: dict[str, Any] = {}
        rows = narrow_form()
        for name, info in InstancesConfig.model_fields.items():
            control = _make_control(name, info, self.changed.emit)
            add_row(rows, name.replace("_", " ").capitalize(), control)
            self.controls[name] = control
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        self.set_value(self._config)

    def value(self) -> InstancesConfig:
        """Return the thresholds that are set."""
        values = {name: _exact(control) for name, control in self.controls.items()}
        return InstancesConfig.model_validate(values)

    def set_value(self, config: InstancesConfig) -> None:
        """Show thresholds, without saying that they changed."""
        for name, control in self.controls.items():
            control.blockSignals(True)
            control.setValue(getattr(config, name))
            control.blockSignals(False)


def _make_control(name: str, info: FieldInfo, report: Callable[[], None]) -> QWidget:
    low, high = field_bounds(info)
    control: Any
    if info.annotation is float:
        control = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        control.setRange(low, high)
        control.setDecimals(2)
        control.setSingleStep(0.01)
        control.setPageStep(0.1)
    else:
        control = QSpinBox()
        control.setRange(low, high or 2**31 - 1)
        control.setSuffix(" voxels")
        control.setKeyboardTracking(False)
    control.setToolTip(info.description or "")
    control.setAccessibleName(name.replace("_", " "))
    control.setMinimumWidth(72)
    ignore_stray_wheel(control)
    control.valueChanged.connect(lambda *_: report())
    return control  # type: ignore[no-any-return]


def _exact(control: Any) -> float | int:
    """Return the value that is shown: a slider computes in binary fractions."""
    value = control.value()
    return round(value, 2) if isinstance(value, float) else int(value)
