"""Combo boxes that always list the layers a viewer has."""

from __future__ import annotations

import weakref
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy, QWidget

from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.fields import ignore_stray_wheel
from napari_volseg.widgets.layers import plain
from napari_volseg.widgets.outputs import is_helper, role_of

__all__ = ["LayerCombo", "fit_narrow"]


def fit_narrow(combo: QComboBox) -> QComboBox:
    """Let a combo box shrink below its longest entry, and be scrolled past."""
    ignore_stray_wheel(combo)
    combo.setSizeAdjustPolicy(
        QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    )
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


class LayerCombo(QComboBox):
    """The layers of some types in a viewer, by name; new layers appear at once.

    They are ordered as `kinds` are, and preview and result layers of this plugin
    come last, so that the first choice is what the user loaded.
    """

    layer_changed = Signal()
    """Another layer is chosen, or the chosen one was renamed or removed."""

    def __init__(
        self, viewer: Any, kinds: tuple[type[Layer], ...], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        fit_narrow(self)
        self._viewer = viewer
        self._kinds = kinds
        self._layers: list[weakref.ref[Layer]] = []
        self._connections = Connections(self)
        for name in ("inserted", "removed", "reordered", "renamed"):
            self._connections.add(getattr(viewer.layers.events, name), self.refresh)
        self.currentIndexChanged.connect(self._report)
        self.refresh()

    def layer(self) -> Layer | None:
        """Return the chosen layer, None when there is none."""
        index = self.currentIndex()
        return self._layers[index]() if 0 <= index < len(self._layers) else None

    def layers(self) -> list[Layer]:
        """Return the layers in the list."""
        return [layer for layer in (ref() for ref in self._layers) if layer is not None]

    def set_layer(self, layer: Layer | None) -> None:
        """Choose a layer that is listed; others are ignored."""
        wanted = plain(layer)
        for index, reference in enumerate(self._layers):
            if reference() is wanted:
                self.setCurrentIndex(index)

    def choose_selected(self) -> None:
        """Choose the layer that is selected, be it beside layers of other types."""
        selected = map(plain, self._viewer.layers.selection)
        ours = [layer for layer in selected if isinstance(layer, self._kinds)]
        if len(ours) == 1:
            self.set_layer(ours[0])

    def refresh(self, event: object = None) -> None:
        """List the layers again, keeping the choice."""
        chosen = self.layer()
        shown = self.currentText()
        layers = [
            layer
            for layer in map(plain, self._viewer.layers)
            if isinstance(layer, self._kinds) and not is_helper(layer)
        ]
        layers.sort(key=self._rank)
        was_blocked = self.blockSignals(True)
        self.clear()
        self._layers = [weakref.ref(layer) for layer in layers]
        self.addItems([str(layer.name) for layer in layers])
        for index, layer in enumerate(layers):
            self.setItemData(index, str(layer.name), Qt.ItemDataRole.ToolTipRole)
        if any(layer is chosen for layer in layers):
            self.set_layer(chosen)
        self.blockSignals(was_blocked)
        self.setEnabled(bool(layers))
        # Most new layers are results: what listens need not look at all again.
        if self.layer() is not chosen or self.currentText() != shown:
            self.layer_changed.emit()

    def _rank(self, layer: Layer) -> tuple[bool, int]:
        kinds = [isinstance(layer, kind) for kind in self._kinds]
        return role_of(layer) is not None, kinds.index(True)

    def _report(self, index: int) -> None:
        self.layer_changed.emit()
