"""The annotated part of a volume, and the gap around what is held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_volseg.geometry import Box, Size
from napari_volseg.volume import LabelledVolume

__all__ = ["annotated_box", "guard_gap"]


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


def guard_gap(patch_size: Sequence[int]) -> Size:
    """Return the gap (z, y, x) kept around a held-out box: a 16th of the patch."""
    z, y, x = (max(2, n // 16) if n > 1 else 0 for n in patch_size)
    return z, y, x
