"""Boxes to annotate next: worked out in a thread, drawn, and gone through by a key."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Layer, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_volseg.counting import WhatCounts
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size
from napari_volseg.suggesting import Suggestion, suggest_boxes
from napari_volseg.volume import ArrayLike, Volume
from napari_volseg.widgets.keys import Keys
from napari_volseg.widgets.layers import METADATA_KEY, Placement, placement, plain
from napari_volseg.widgets.messages import explain, sentence, wrapped_label
from napari_volseg.widgets.meter import CountedPair
from napari_volseg.widgets.outputs import add_beside
from napari_volseg.widgets.predictions import shown_predictions
from napari_volseg.widgets.threads import make_worker
from napari_volseg.widgets.viewers import look_at
from napari_volseg.widgets.whatcounts import view_of

__all__ = ["NEXT_KEY", "SuggestionBar"]

NEXT_KEY = "G"
"""Goes to the next suggestion."""
ROLE = "suggestions"
_DOES = "Find boxes that are unlike what is annotated, or unsure in a prediction"
_NEXT = f"Go to the next suggestion (key {NEXT_KEY})"
_NONE_YET = "Press Suggest first"
_COLOR = "#cc79a7"


class SuggestionBar(QWidget):
    """Two buttons and a line that says why a box is worth annotating."""

    suggested = Signal(object)
    """A list of `Suggestion`, as soon as they are drawn."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._pair: CountedPair | None = None
        self._image: Layer | None = None
        self._task: _Task | None = None
        self._open: dict[str, _Task | None] = {"task": None}
        self._where: tuple[str, Placement] | None = None
        self._found: list[Suggestion] = []
        self._at = -1
        self._layer: Shapes | None = None
        self.suggest = QPushButton("Suggest where next")
        self.next = QPushButton("Next")
        self.reason = wrapped_label("")
        buttons = QHBoxLayout()
        buttons.addWidget(self.suggest, 2)
        buttons.addWidget(self.next, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.reason)
        self.suggest.clicked.connect(self.ask)
        self.next.clicked.connect(self.go_on)
        Keys(self, {NEXT_KEY: self.go_on}).bind(plain(viewer))
        self.destroyed.connect(partial(_cancel, self._open))
        self._tidy("nothing has been counted yet")

    def offer(
        self, pairs: Sequence[CountedPair], images: Sequence[Layer | None]
    ) -> None:
        """Take what counts; the first pair with something left is looked at."""
        for pair, image in zip(pairs, images, strict=False):
            if pair.role == "train" and pair.counted.share < 1 and image is not None:
                self._pair, self._image = pair, image
                self._tidy()
                return
        self._pair = self._image = None
        self._tidy(
            "everything counts as annotated: choose what is annotated above to be "
            "told where to go on"
        )

    def refuse(self, because: str) -> None:
        """Say why nothing can be suggested."""
        self._pair = self._image = None
        self._tidy(because)

    def ask(self) -> None:
        """Look for suggestions in a thread; does nothing while that goes on."""
        if self._pair is None or self._image is None or self._task is not None:
            return
        task = self._task = self._open["task"] = _Task()
        image, pair = self._image, self._pair
        self.reason.setText("Looking for boxes… You can go on painting.")
        self._tidy()
        worker = make_worker(
            _suggest,
            pair.snapshot.image,
            view_of(pair, 0, None),
            self._maps_of(image, pair),
            task,
        )
        worker.returned.connect(lambda answer: self._take(answer, image, task))
        worker.errored.connect(lambda error: self._take(str(error), image, task))
        worker.start()

    def go_on(self) -> None:
        """Go to the next suggestion, after the last to the first again."""
        if not self._found:
            return
        layer = self._layer
        if layer is None or not self._is_shown(layer):
            layer = self._draw()
        self._at = (self._at + 1) % len(self._found)
        suggestion = self._found[self._at]
        look_at(self._viewer, layer, _middle(suggestion.box))
        why = ", ".join(suggestion.reasons)
        self.reason.setText(f"{self._at + 1} of {len(self._found)}: {why}")

    def _maps_of(
        self, image: Layer, pair: CountedPair
    ) -> tuple[ArrayLike, ArrayLike] | None:
        """Return mask and boundary of the newest prediction of an image."""
        shape = pair.snapshot.image.shape_ZYX
        for shown in shown_predictions(self._viewer):
            maps = shown.maps
            if shown.image == image.name and all(m.shape == shape for m in maps):
                return maps[0], maps[1]
        return None

    def _take(self, answer: list[Suggestion] | str, image: Layer, task: _Task) -> None:
        if task.is_cancelled:
            return
        self._task = self._open["task"] = None
        if isinstance(answer, str):
            self.reason.setText(f"{sentence(answer)}.")
        elif not answer:
            self.reason.setText("No box is left that is not half annotated.")
        else:
            self._remove()
            self._found, self._at = answer, -1
            self._where = f"{image.name} · {ROLE}", placement(image)
            self._draw()
            self.go_on()
            self.suggested.emit(answer)
        self._tidy()

    def _draw(self) -> Shapes:
        assert self._where is not None
        layer = self._layer = _make(self._found, *self._where)
        add_beside(self._viewer, layer)
        layer.events.data.connect(_mark_edited)
        return layer

    def _remove(self) -> None:
        """Take our old boxes away, unless the user changed them."""
        layer = self._layer
        if layer is None or layer.metadata[METADATA_KEY].get("edited"):
            return
        if self._is_shown(layer):
            self._viewer.layers.remove(layer)

    def _is_shown(self, layer: Layer) -> bool:
        return any(other is layer for other in map(plain, self._viewer.layers))

    def _tidy(self, because: str = "") -> None:
        if self._task is not None:
            because = "boxes are being looked for"
        explain(self.suggest, _DOES, because)
        explain(self.next, _NEXT, "" if self._found else _NONE_YET)


class _Task:
    """Shared with a thread: whether anybody still waits for it."""

    is_cancelled = False


def _suggest(
    image: Volume,
    known_ZYX: WhatCounts,
    maps: tuple[ArrayLike, ArrayLike] | None,
    task: _Task,
) -> list[Suggestion] | str:
    """Return suggestions, or what is wrong."""
    try:
        return suggest_boxes(
            image, known_ZYX, maps, is_cancelled=lambda: task.is_cancelled
        )
    except DataError as error:
        return str(error)


def _make(found: Sequence[Suggestion], name: str, place: Placement) -> Shapes:
    """Return a layer with a rectangle in the middle slice of each box."""
    corners = [_rectangle(suggestion.box) for suggestion in found]
    edge = max(0.5, float(np.ptp(corners[0], axis=0).max()) / 60)
    return Shapes(
        corners,
        shape_type="rectangle",
        name=name,
        edge_color=_COLOR,
        face_color="transparent",
        edge_width=edge,
        features={
            "rank": np.arange(1, len(found) + 1),
            "why": [", ".join(each.reasons) for each in found],
            "score": [each.score for each in found],
            "uncertainty": [_number(each.uncertainty) for each in found],
            "novelty": [_number(each.novelty) for each in found],
            "box": [str(each.box) for each in found],
        },
        text={"string": "{rank}", "color": _COLOR, "size": 16, "anchor": "upper_left"},
        metadata={METADATA_KEY: {"role": ROLE}},
        **place.layer_options(),
    )


def _rectangle(box: Box) -> NDArray[np.float64]:
    (_, y0, x0), (_, y1, x1) = box.start, box.stop
    z = _middle(box)[0]
    corners = [(z, y0, x0), (z, y0, x1), (z, y1, x1), (z, y1, x0)]
    return np.array(corners, float) - (0, 0.5, 0.5)


def _middle(box: Box) -> Size:
    z, y, x = ((a + b - 1) // 2 for a, b in zip(box.start, box.stop, strict=True))
    return z, y, x


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _mark_edited(event: Any) -> None:
    """Note that the user changed the boxes, so that they stay."""
    event.source.metadata[METADATA_KEY]["edited"] = True


def _cancel(opened: dict[str, _Task | None], *_: object) -> None:
    task = opened["task"]
    if task is not None:
        task.is_cancelled = True
