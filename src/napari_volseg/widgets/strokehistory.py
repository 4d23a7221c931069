"""What is painted on a layer under review, in step with napari's undo of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari.layers import Labels

from napari_volseg.review import Review, Stroke
from napari_volseg.widgets.strokes import stroke_voxels

__all__ = ["StrokeHistory"]


@dataclass
class _Entry:
    atom: Any
    """The first that napari keeps of the stroke."""
    stroke: Stroke
    is_done: bool = True


class StrokeHistory:
    """Tells a review of strokes, and of those that napari took back.

    Keeps no reference to the layer.
    """

    def __init__(self, review: Review) -> None:
        self._review = review
        self._entries: list[_Entry] = []

    def take(self, event: Any) -> None:
        """Note what the user painted with napari's tools."""
        stroke = None
        shape = self._review.labels_ZYX.shape
        for voxels, old, new in stroke_voxels(event.value, shape):
            stroke = self._review.note_stroke(voxels, old, new, stroke)
        if stroke is not None:
            self._entries.append(_Entry(event.value[0], stroke))
            kept = set().union(*_kept(event.source))
            self._entries = [e for e in self._entries if id(e.atom) in kept]

    def follow(self, layer: Labels) -> bool:
        """Change statuses as napari's undo and redo did; return whether any moved.

        napari sends no event then, but the parts of a stroke move from one of its lists
        to the other.
        """
        done, undone = _kept(layer)
        back = [e for e in self._entries if e.is_done and id(e.atom) in undone]
        again = [e for e in self._entries if not e.is_done and id(e.atom) in done]
        for entry in reversed(back):
            entry.is_done = False
            self._review.take_back(entry.stroke)
        for entry in again:
            entry.is_done = True
            self._review.do_again(entry.stroke)
        return bool(back or again)


def _kept(layer: Labels) -> tuple[set[int], set[int]]:
    """Return which parts of strokes napari can take back, and which do again.

    The lists are private; without them there are none, and statuses stay.
    """
    done, undone = (
        {id(atom) for item in getattr(layer, name, ()) for atom in item}
        for name in ("_undo_history", "_redo_history")
    )
    return done, undone
