"""What napari's painting tools say they changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["stroke_voxels"]


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
