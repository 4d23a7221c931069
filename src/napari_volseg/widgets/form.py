"""A form over the configuration, made from its pydantic models.

No setting is listed twice: labels, bounds, choices and tooltips come from
`config`. A few settings stand in the simple view, all others of the chosen
sections under *Advanced*, which is built when it is first opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QLayout, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_volseg.config import Config, build_config
from napari_volseg.widgets.fields import Field, make_field

__all__ = ["TRAIN_SIMPLE", "ConfigForm"]

_LABEL_WIDTH = 104
"""Pixels: one column of labels through a dock of several forms; long ones wrap."""

TRAIN_SIMPLE: Mapping[str, str] = {
    "optimization.max_minutes": "Budget (min)",
    "optimization.max_epochs": "Max epochs",
    "data.patch_size": "Patch (z, y, x)",
    "system.training.batch_size": "Batch size",
    "optimization.optimizer.lr": "Learning rate",
    "system.device": "Device",
}
"""The settings that a dock shows at once, and their labels."""

_FROM_LAYERS = (
    "data.train_",
    "data.val_image",
    "data.val_label",
    "data.val_mask",
    "data.test_",
    "data.annotated",
    "data.background_id",
    "data.voxel_size",
)
"""Settings that the layers of a dock decide."""


class ConfigForm(QWidget):
    """Edit a configuration.

    Parameters
    ----------
    simple
        Dotted keys that are always visible, with their labels.
    sections
        Sections of which everything else is under *Advanced*.
    """

    changed = Signal()
    """A setting was edited, or another configuration was set."""

    def __init__(
        self,
        simple: Mapping[str, str],
        sections: Sequence[str],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._config = Config()
        self._fields: dict[str, Field] = {}
        self._is_built = False
        self._simple = dict(simple)
        self._sections = tuple(sections)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        rows = narrow_form()
        for key, label in self._simple.items():
            self._add_row(rows, key, label)
        layout.addLayout(rows)
        self._advanced = QCollapsible("Advanced")
        self._advanced.setDuration(0)
        self._advanced.setToolTip("All other settings of the run")
        self._advanced.toggled.connect(self._build_advanced)
        for outer in (self._advanced, self._advanced.content()):
            margins = outer.layout()
            if margins is not None:
                margins.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._advanced)

    def config(self) -> Config:
        """Return the edited configuration.

        Raises
        ------
        DataError
            If a setting is out of bounds; the message names its key.
        """
        return build_config(self.value(), where="the settings")

    def value(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, as a nested dict.

        Raises
        ------
        DataError
            If the text of a setting cannot be read.
        """
        tree = self._config.model_dump(mode="json")
        if self._config.automatic.enabled:
            tree["automatic"]["kept"] = self._kept(tree)
        for key, field in self._fields.items():
            put(tree, key, field.value())
        return _differences(tree, Config())

    def _kept(self, tree: Mapping[str, Any]) -> list[str]:
        """Return the settings that an automatic configuration must not derive."""
        edited = {k for k, f in self._fields.items() if f.value() != get(tree, k)}
        return sorted(edited | set(self._config.automatic.kept))

    def set_value(self, config: Config | Mapping[str, Any]) -> None:
        """Show a configuration, or the settings that differ from the defaults.

        Raises
        ------
        DataError
            If the settings are not valid.
        """
        if not isinstance(config, Config):
            config = build_config(config, where="the settings")
        self._config = config
        tree = config.model_dump(mode="json")
        for key, field in self._fields.items():
            with field.changed.blocked():
                field.set_value(get(tree, key))
        self.changed.emit()

    def open_advanced(self) -> None:
        """Unfold all settings."""
        self._advanced.expand(animate=False)

    def field(self, key: str) -> Field:
        """Return the control of a dotted key, unfolding it when needed."""
        if key not in self._fields:
            self.open_advanced()
        return self._fields[key]

    def _build_advanced(self, is_open: bool) -> None:
        if not is_open or self._is_built:
            return
        self._is_built = True
        rows = narrow_form()
        group = ""
        for key, _ in iter_fields(Config):
            path, _, name = key.rpartition(".")
            if not self._is_advanced(key):
                continue
            if path != group:
                group = path
                rows.addRow(QLabel(f"<b>{_words(path)}</b>"))
            self._add_row(rows, key, _words(name))
        block = QWidget()
        block.setLayout(rows)
        self._advanced.addWidget(block)

    def _is_advanced(self, key: str) -> bool:
        return (
            key.split(".")[0] in self._sections
            and key not in self._simple
            and not key.startswith(_FROM_LAYERS)
        )

    def _add_row(self, rows: QFormLayout, key: str, label: str) -> None:
        info = dict(iter_fields(Config))[key]
        tree = self._config.model_dump(mode="json")
        field = make_field(key, info, get(tree, key))
        field.changed.connect(self.changed.emit)
        add_row(rows, label, field.native)
        self._fields[key] = field


def narrow_form() -> QFormLayout:
    """Return a form layout that works 300 pixels wide."""
    rows = QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    rows.setVerticalSpacing(4)
    return rows


def add_row(
    rows: QFormLayout,
    text: str,
    content: QWidget | QLayout,
    buddy: QWidget | None = None,
) -> QLabel:
    """Add a row whose label is as wide as all others of the dock."""
    label = QLabel(text)
    label.setFixedWidth(_LABEL_WIDTH)
    label.setWordWrap(True)
    if isinstance(content, QWidget):
        label.setToolTip(content.toolTip())
        label.setBuddy(buddy or content)
    rows.addRow(label, content)
    return label


def iter_fields(
    section: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting below a model with its dotted key."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from iter_fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def get(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    *path, last = key.split(".")
    for part in path:
        tree = tree[part]
    tree[last] = value


def _differences(tree: Mapping[str, Any], defaults: BaseModel) -> dict[str, Any]:
    result: dict[str, Any] = {}
    plain = defaults.model_dump(mode="json")
    for key, value in tree.items():
        default = getattr(defaults, key)
        if isinstance(default, BaseModel):
            inner = _differences(value, default)
            if inner:
                result[key] = inner
        elif value != plain[key]:
            result[key] = value
    return result


def _words(key: str) -> str:
    """Return a dotted key as people write it."""
    words = key.replace(".", " · ").replace("_", " ")
    return words[:1].upper() + words[1:]
