"""What is painted on a layer while no dock goes on with its review."""

from __future__ import annotations

import weakref
from typing import Any

from napari.layers import Labels

from napari_volseg.review import Review
from napari_volseg.widgets.strokehistory import StrokeHistory

__all__ = ["come_back", "leave"]


def leave(layer: Labels, review: Review, strokes: StrokeHistory) -> None:
    """Note from now on what is painted, until `come_back`."""
    _left[layer] = left = _Left(review, strokes)
    layer.events.paint.connect(left.take_stroke)


def come_back(layer: Labels) -> bool:
    """Stop noting; return whether anything changed since the review was left."""
    left = _left.pop(layer, None)
    if left is None:
        return False
    layer.events.paint.disconnect(left.take_stroke)
    return left.end(layer)


class _Left:
    """Notes what is painted on a layer while no dock goes on with its review.

    napari keeps no strong reference to this, and this keeps none to the layer.
    """

    def __init__(self, review: Review, strokes: StrokeHistory) -> None:
        self._review = review
        self._strokes = strokes
        self._voxels = review.painted()
        self._values = review.values(self._voxels)
        self._has_strokes = False

    def take_stroke(self, event: Any) -> None:
        """Note what the user painted with napari's tools."""
        if event.source.data is self._review.labels_ZYX:
            self._strokes.take(event)
            self._has_strokes = True

    def end(self, layer: Labels) -> bool:
        """Note which older strokes were taken back; return whether anything changed."""
        is_changed = self._review.note_changes(self._voxels, self._values)
        is_moved = self._strokes.follow(layer)
        return is_changed or is_moved or self._has_strokes


_left: weakref.WeakKeyDictionary[Labels, _Left] = weakref.WeakKeyDictionary()
