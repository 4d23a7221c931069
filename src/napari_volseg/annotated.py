"""Where a volume is annotated, and which part of it says most about its objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from napari_volseg.geometry import Box
from napari_volseg.volume import LabelledVolume

__all__ = ["annotated_box", "fullest_box"]

_CELLS = 4
"""Places that a box is tried at along an edge of its own length."""
_ALIKE = 0.8
"""Of boxes that hold so much of what the fullest holds, the middle one is taken."""


def annotated_box(volume: LabelledVolume) -> Box:
    """Return the smallest box that holds every annotated voxel."""
    annotated = volume.annotated_ZYX
    if annotated is None:
        return Box.whole(volume.image.shape_ZYX)
    spans = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(annotated.any(axis=others))
        spans.append((int(hits[0]), int(hits[-1]) + 1))
    (z0, z1), (y0, y1), (x0, x1) = spans
    return Box((z0, y0, x0), (z1, y1, x1))


def fullest_box(volume: LabelledVolume, n_voxels: int) -> Box:
    """Return a box of at most `n_voxels` that holds as much of the objects as any.

    Only annotated voxels count. An annotation that fits is returned whole; a part of
    one that does not has its proportions.
    """
    outer = annotated_box(volume)
    share = (n_voxels / outer.size) ** (1 / 3)
    if share >= 1:
        return outer
    edges = [max(1, int(n * share)) for n in outer.shape]
    cells = [max(1, edge // _CELLS) for edge in edges]
    held = _count(volume, outer, cells)
    for axis, (edge, cell) in enumerate(zip(edges, cells, strict=True)):
        held = sliding_window_view(held, edge // cell, axis).sum(-1)
    places_N3 = np.argwhere(held >= _ALIKE * held.max()) * cells
    last = np.array(outer.shape) - edges
    nearest = np.abs(2 * places_N3 - last).sum(axis=1).argmin()
    start = outer.start + np.minimum(places_N3[nearest], last)
    z, y, x = start.tolist()
    return Box((z, y, x), (z + edges[0], y + edges[1], x + edges[2]))


def _count(volume: LabelledVolume, box: Box, cells: Sequence[int]) -> NDArray[np.int64]:
    """Return the annotated voxels of objects in each cell of a box."""
    starts = [np.arange(0, n, cell) for n, cell in zip(box.shape, cells, strict=True)]
    counts = np.zeros([len(s) for s in starts], np.int64)
    _, y, x = box.slices
    for i, first in enumerate(starts[0] + box.start[0]):
        slab = (slice(first, min(first + cells[0], box.stop[0])), y, x)
        is_object = np.asarray(volume.labels_ZYX[slab]) != 0
        if volume.annotated_ZYX is not None:
            is_object &= volume.annotated_ZYX[slab]
        plane = is_object.sum(axis=0, dtype=np.int64)
        rows = np.add.reduceat(plane, starts[1], axis=0)
        counts[i] = np.add.reduceat(rows, starts[2], axis=1)
    return counts
