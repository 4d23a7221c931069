"""What napari's painting tools say they changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray

__all__ = ["stroke_voxels", "strokes_of", "without_strokes"]


def stroke_voxels(
    atoms: Sequence[Any], shape: Sequence[int]
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], Any]]:
    """Yield flat indices, values before and values after of a paint event.

    Parameters
    ----------
    atoms
        The value of ``Labels.events.paint``: triples of indices, old and new values;
        since napari 0.9 also boxes with a mask.
    shape
        Shape of the layer's data.
    """
    for atom in atoms:
        if hasattr(atom, "slice_key"):
            yield _masked(atom, shape)
            continue
        indices, old, new = atom
        places = [np.asarray(axis).ravel() for axis in indices]
        if places and places[0].size:
            voxels = np.ravel_multi_index(places, tuple(shape)).astype(np.int64)
            yield voxels, np.asarray(old).ravel(), new


def strokes_of(layer: Labels) -> list[Any]:
    """Return the strokes that napari could take back, the oldest first.

    Each is what a paint event holds. Its list of them is private; without it there
    are none.
    """
    return [list(atoms) for atoms in getattr(layer, "_undo_history", ())]


def without_strokes(labels_ZYX: NDArray[Any], strokes: Sequence[Any]) -> NDArray[Any]:
    """Return labels as they were before strokes.

    They are returned themselves when there are no strokes, or when something else
    changed them in the same places.
    """
    if not strokes:
        return labels_ZYX
    before_ZYX = labels_ZYX.copy(order="K")
    for atoms in reversed(strokes):
        try:
            parts = list(stroke_voxels(atoms, before_ZYX.shape))
        except ValueError:
            return labels_ZYX  # painted on data of another shape
        for voxels, old, new in reversed(parts):
            places = np.unravel_index(voxels, before_ZYX.shape)
            if (before_ZYX[places] != new).any():
                return labels_ZYX
            before_ZYX[places] = old
    return before_ZYX


def _masked(
    atom: Any, shape: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[Any], Any]:
    starts, lengths = [], []
    for part, length in zip(atom.slice_key, shape, strict=True):
        start, stop, _ = part.indices(length)
        starts.append(start)
        lengths.append(stop - start)
    mask = np.ones(lengths, bool) if atom.mask is None else np.asarray(atom.mask)
    mask = mask.reshape(lengths)
    places = [
        axis + start for axis, start in zip(np.nonzero(mask), starts, strict=True)
    ]
    voxels = np.ravel_multi_index(places, tuple(shape)).astype(np.int64)
    return voxels, np.asarray(atom.old_values).ravel(), atom.new_value
