"""The table of instances as napari's own features of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

__all__ = ["LayerFeatures"]

_FEW_ROWS = 5_000
_LATER_MS = 1_500
"""Many rows take napari a moment, so they wait until the user pauses."""


class LayerFeatures(QObject):
    """Sets the features of a layer, soon when they are many."""

    def __init__(self, layer: Labels, parent: QObject) -> None:
        super().__init__(parent)
        self._layer = layer
        self._table: Mapping[str, NDArray[Any]] = {}
        self._others: Any = None
        """What the user added, by id; instances that went may return."""
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_LATER_MS)
        self._later.timeout.connect(self._set)

    def show(self, table: Mapping[str, NDArray[Any]]) -> None:
        """Show columns, one of which is ``index``."""
        self._table = table
        if len(table["index"]) <= _FEW_ROWS:
            self._set()
        else:
            self._later.start()

    def close(self) -> None:
        """Show now what still waits."""
        if self._later.isActive():
            self._later.stop()
            self._set()

    def _set(self) -> None:
        import pandas  # imported by napari itself when it shows features

        shown = pandas.DataFrame(dict(self._table))
        known = self._layer.features
        if "index" in known:
            names = known.columns.difference(shown.columns, sort=False)
            others = known.drop_duplicates("index").set_index("index")[names]
            if self._others is not None:
                others = others.combine_first(self._others)[names]
            self._others = others
            shown = shown.join(others, on="index")
        self._layer.features = shown
