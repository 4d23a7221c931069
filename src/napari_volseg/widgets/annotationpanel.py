"""What of the pairs counts: chosen, measured, shown and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.connections import Connections
from napari_volseg.widgets.messages import explain, wrapped_label
from napari_volseg.widgets.meter import AnnotationMeter, CountedPair, Pairs
from napari_volseg.widgets.pairs import AnnotatedChooser, PairList
from napari_volseg.widgets.suggestions import SuggestionBar
from napari_volseg.widgets.whatcounts import LEGEND, WhatCountsLayers

__all__ = ["AnnotationPanel"]


class AnnotationPanel(QWidget):
    """The part of the Train dock that is about the annotation.

    Parameters
    ----------
    pairs
        The chosen layers.
    capture
        Returns live snapshots of them, or raises DataError.
    """

    changed = Signal()
    """Something else counts now."""

    def __init__(
        self,
        viewer: Any,
        pairs: PairList,
        capture: Callable[[], Pairs],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._pairs = viewer, pairs
        self._counted: list[CountedPair] = []
        self._plan: Mapping[str, Any] | None = None
        self.chooser = AnnotatedChooser(viewer)
        self.meter = AnnotationMeter(viewer, capture)
        self.shown = QPushButton("Show what counts")
        self.shown.setCheckable(True)
        self.legend = wrapped_label(LEGEND)
        self.legend.hide()
        self.check = QPushButton("Check…")
        self.check.setToolTip(
            "Look for split ids, fragments, holes, bad slices and the like"
        )
        self.suggestions = SuggestionBar(viewer)
        self._layers = WhatCountsLayers(viewer)
        self._lay_out()
        self.chooser.changed.connect(self.changed)
        self.meter.counted.connect(self._take)
        self.shown.toggled.connect(self._toggle)
        self.check.clicked.connect(self._open_check)
        self._connections = Connections(self)
        self._connections.add(viewer.layers.events.removed, self._note_removed)
        self.show_problem("nothing has been counted yet")

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.shown)
        buttons.addWidget(self.check)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.chooser)
        layout.addWidget(self.meter)
        layout.addLayout(buttons)
        layout.addWidget(self.legend)
        layout.addWidget(self.suggestions)

    @property
    def n_instances(self) -> int | None:
        """Annotated instances of all pairs; None before they are counted."""
        if not self._counted:
            return None
        return sum(pair.counted.n_instances for pair in self._counted)

    def follow(self) -> None:
        """Count the layers that are chosen now, and whenever they are painted on."""
        labels = [labels for _, labels, _ in self._pairs.layers()]
        self.meter.follow(labels, self.chooser.chosen_region())

    def show_problem(self, text: str) -> None:
        """Say why there is nothing to count."""
        self.meter.show_problem(text)
        self._counted = []
        explain(self.shown, "", text)
        self.suggestions.refuse(text)
        self.shown.setChecked(False)

    def set_plan(self, plan: Mapping[str, Any] | None) -> None:
        """Take what a training would hold out; None while nobody knows."""
        self._plan = plan
        self._show()

    def _take(self, counted: list[CountedPair]) -> None:
        self._counted = counted
        explain(
            self.shown,
            "Show in a layer which voxels count, and which are held out for validation",
        )
        self.suggestions.offer(counted, self._images())
        self._show()

    def _toggle(self, is_shown: bool) -> None:
        self.legend.setVisible(is_shown)
        if is_shown:
            self._show()
        else:
            self._layers.remove()

    def _show(self) -> None:
        if self.shown.isChecked() and self._counted:
            self._layers.show(self._counted, self._images(), self._plan)

    def _images(self) -> list[Layer | None]:
        return [image for image, _, _ in self._pairs.layers()]

    def _note_removed(self, event: object) -> None:
        if self.shown.isChecked() and self._layers.are_gone():
            self.shown.setChecked(False)

    def _open_check(self) -> None:
        image, labels, _ = self._pairs.layers()[0]
        dock = open_dock(self._viewer, "Check")
        dock.set_pair(image, labels)
        dock.annotated.take_from(self.chooser)
