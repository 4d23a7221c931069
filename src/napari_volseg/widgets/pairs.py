"""Choose what to learn from: pairs of image and labels, and what is annotated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari.layers import Image, Labels, Layer, Shapes
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_volseg.config import DataConfig
from napari_volseg.errors import DataError
from napari_volseg.runs.pairs import Role
from napari_volseg.widgets.combos import LayerCombo, fit_narrow
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.fields import ignore_stray_wheel
from napari_volseg.widgets.form import add_row, narrow_form
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.snapshots import (
    Annotated,
    PairSnapshot,
    capture_pair,
    own_rule,
)

__all__ = ["AnnotatedChooser", "PairList"]

_TOOLTIP = Qt.ItemDataRole.ToolTipRole

_RULES = {
    "everywhere": (
        "everywhere",
        "Every voxel counts; what is not painted is background",
    ),
    "region": (
        "inside a region",
        "Only what lies inside the shapes or labels of a region layer counts; "
        "unpainted voxels there are background",
    ),
    "painted_slices": (
        "painted slices",
        "All of every z-slice that has any paint counts",
    ),
    "painted_voxels": (
        "painted voxels",
        "Only painted voxels count; paint background with an id of its own",
    ),
}


class _PairRow(QWidget):
    """One image with its labels."""

    changed = Signal()
    removed = Signal(object)

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.image = LayerCombo(viewer, (Image,))
        self.image.setToolTip("The image layer to learn from (z, y, x)")
        self.labels = LayerCombo(viewer, (Labels,))
        self.labels.setToolTip("The labels layer with one id for each object")
        self.held_out = QCheckBox("for validation only")
        self.held_out.setToolTip(
            "Score the network on this pair and never train on it; without such a "
            "pair a part of the others is held out"
        )
        self.remove = QPushButton("− Pair")
        self.remove.setToolTip("Take this pair away; its layers stay")
        rows = narrow_form()
        self.setLayout(rows)
        add_row(rows, "Image", self.image)
        add_row(rows, "Labels", self.labels)
        self._extra = QWidget()
        line = QHBoxLayout(self._extra)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.held_out, 1)
        line.addWidget(self.remove)
        rows.addRow(self._extra)
        self.image.layer_changed.connect(self.changed)
        self.labels.layer_changed.connect(self.changed)
        self.held_out.toggled.connect(self.changed)
        self.remove.clicked.connect(self._remove)

    def role(self) -> Role:
        """Return what the pair is for."""
        return "val" if self.held_out.isChecked() else "train"

    def set_alone(self, is_alone: bool) -> None:
        """Hide what only makes sense beside other pairs."""
        self._extra.setVisible(not is_alone)
        if is_alone:
            self.held_out.setChecked(False)

    def _remove(self) -> None:
        self.removed.emit(self)


class PairList(QWidget):
    """One or more pairs."""

    changed = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.rows: list[_PairRow] = []
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self.add = QPushButton("+ Pair")
        self.add.setToolTip("Learn from another image with labels as well")
        self.add.clicked.connect(self.add_pair)
        self._layout.addWidget(self.add)
        self.add_pair()

    def add_pair(self) -> None:
        """Add a pair, with the first layers that no other pair has."""
        row = _PairRow(self._viewer, self)
        used = {id(r.image.layer()) for r in self.rows}
        used |= {id(r.labels.layer()) for r in self.rows}
        for combo in (row.image, row.labels):
            for layer in combo.layers():
                if id(layer) not in used:
                    combo.set_layer(layer)
                    break
        row.changed.connect(self.changed)
        row.removed.connect(self._remove)
        self.rows.append(row)
        self._layout.insertWidget(self._layout.count() - 1, row)
        self._tidy()

    def set_pairs(self, pairs: Sequence[tuple[Layer, Layer, Role]]) -> None:
        """Choose these pairs of layers in place of all others."""
        while len(self.rows) > len(pairs):
            self._remove(self.rows[-1])
        while len(self.rows) < len(pairs):
            self.add_pair()
        for row, (image, labels, role) in zip(self.rows, pairs, strict=True):
            row.image.set_layer(image)
            row.labels.set_layer(labels)
            row.held_out.setChecked(role == "val")

    def layers(self) -> list[tuple[Image | None, Labels | None, Role]]:
        """Return the chosen layers and what they are for."""
        return [
            (
                row.image.layer(),
                row.labels.layer(),
                row.role(),
            )
            for row in self.rows
        ]

    def capture(
        self, annotated: Annotated, *, copy: bool = True
    ) -> list[tuple[PairSnapshot, Role]]:
        """Return snapshots of all pairs.

        Raises
        ------
        DataError
            If a layer is missing, used twice, or does not fit.
        """
        snapshots = []
        seen: set[int] = set()
        for image, labels, role in self.layers():
            if image is None:
                raise DataError("there is no image: open a volume")
            if labels is None:
                raise DataError(
                    f"there are no labels for '{image.name}': add a labels layer and "
                    "paint some objects"
                )
            if id(labels) in seen:
                raise DataError(
                    f"'{labels.name}' is used for two pairs: choose other labels or "
                    "take a pair away"
                )
            if plain(annotated.region) is plain(labels):
                raise DataError(
                    f"'{labels.name}' cannot be its own region: add a Shapes layer and "
                    "draw around what is annotated, or choose another region"
                )
            seen.add(id(labels))
            rule = own_rule(labels) or annotated
            snapshots.append((capture_pair(image, labels, rule, copy=copy), role))
        if all(role == "val" for _, role in snapshots):
            raise DataError("every pair is for validation: train on at least one")
        return snapshots

    def _remove(self, row: _PairRow) -> None:
        self.rows.remove(row)
        self._layout.removeWidget(row)
        row.deleteLater()
        self._tidy()

    def _tidy(self) -> None:
        for row in self.rows:
            row.set_alone(len(self.rows) == 1)
        self.changed.emit()


class AnnotatedChooser(QWidget):
    """Which voxels count: unlabelled is not background."""

    changed = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rule = fit_narrow(QComboBox())
        self.rule.setToolTip("Which voxels the network learns from and is scored on")
        for key, (text, tip) in _RULES.items():
            self.rule.addItem(text, key)
            self.rule.setItemData(self.rule.count() - 1, tip, _TOOLTIP)
        self.region = LayerCombo(viewer, (Shapes, Labels))
        self.region.setToolTip("The layer whose shapes or painted voxels count")
        self.slices = fit_narrow(QComboBox())
        self.slices.addItems(["in their own slice", "in all slices"])
        self.slices.setToolTip(
            "Shapes count in their own slice only, or in every slice of the volume"
        )
        self.background = QSpinBox()
        self.background.setRange(0, 2**31 - 1)
        self.background.setSpecialValueText("none")
        self.background.setToolTip(
            "The label id painted where there is background, which becomes 0"
        )
        ignore_stray_wheel(self.background)
        self._rows = narrow_form()
        add_row(self._rows, "Annotated", self.rule)
        add_row(self._rows, "Region", self.region)
        add_row(self._rows, "Shapes count", self.slices)
        add_row(self._rows, "Background id", self.background)
        self.setLayout(self._rows)
        self._is_region_chosen = False
        self._connections = Connections(self)
        self._connections.add(viewer.layers.events.inserted, self._prefer_shapes)
        self.rule.currentIndexChanged.connect(self._prefer_shapes)
        self.rule.currentIndexChanged.connect(self._tidy)
        self.region.activated.connect(self._note_region)
        self.region.layer_changed.connect(self._tidy)
        self.slices.currentIndexChanged.connect(self.changed)
        self.background.valueChanged.connect(self.changed)
        self._tidy()

    def value(self) -> Annotated:
        """Return the choice.

        Raises
        ------
        DataError
            If a region is wanted and there is no layer for it.
        """
        key = self.rule.currentData()
        if key != "region":
            background = self.background.value() if key == "painted_voxels" else 0
            return Annotated(key, background)
        region = self.region.layer()
        if region is None:
            raise DataError(
                "there is no region layer: add a Shapes layer and draw around what is "
                "annotated"
            )
        return Annotated("everywhere", 0, region, self.slices.currentIndex() == 1)

    def take(self, data: DataConfig) -> None:
        """Choose the rule of some settings, where they have one.

        "everywhere" is none: runs that learnt inside a region say so too.
        """
        if data.annotated != "everywhere":
            self.rule.setCurrentIndex(self.rule.findData(data.annotated))
            self.background.setValue(data.background_id)

    def take_from(self, other: AnnotatedChooser) -> None:
        """Choose what another one has."""
        self._is_region_chosen = other._is_region_chosen
        self.rule.setCurrentIndex(other.rule.currentIndex())
        self.region.set_layer(other.region.layer())
        self.slices.setCurrentIndex(other.slices.currentIndex())
        self.background.setValue(other.background.value())

    def _note_region(self, index: int) -> None:
        self._is_region_chosen = True

    def _prefer_shapes(self, event: object = None) -> None:
        """Take shapes for the region, which come first, until the user chooses."""
        if not self._is_region_chosen:
            self.region.setCurrentIndex(0)

    def chosen_region(self) -> Layer | None:
        """Return the region layer when only a region counts."""
        is_region = self.rule.currentData() == "region"
        return self.region.layer() if is_region else None

    def _tidy(self, *_: object) -> None:
        key = self.rule.currentData()
        is_shapes = isinstance(self.region.layer(), Shapes)
        _show_rows(
            self._rows,
            {
                self.region: key == "region",
                self.slices: key == "region" and is_shapes,
                self.background: key == "painted_voxels",
            },
        )
        self.rule.setToolTip(_RULES[key][1])
        self.changed.emit()


def _show_rows(rows: QFormLayout, visible: dict[Any, bool]) -> None:
    for widget, is_visible in visible.items():
        label = rows.labelForField(widget)
        widget.setVisible(is_visible)
        if label is not None:
            label.setVisible(is_visible)
