"""What of the volumes is annotated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_volseg.geometry import Box
from napari_volseg.volume import LabelledVolume

__all__ = ["annotated_share", "count_instances", "is_on_single_slices"]

_SLAB = 32
"""Slices that are looked at at once."""
_FEW_SLICES = 0.5
"""Annotation on less than this share of its own depth counts as single slices."""


def is_on_single_slices(volume: LabelledVolume) -> bool:
    """Return whether most slices between the annotated ones are not annotated."""
    annotated = volume.annotated_ZYX
    if annotated is None or volume.image.shape_ZYX[0] == 1:
        return volume.image.shape_ZYX[0] == 1
    slices = np.flatnonzero(annotated.any(axis=(1, 2)))
    span = int(slices[-1] - slices[0]) + 1
    return slices.size == 1 or slices.size / span < _FEW_SLICES


def count_instances(volume: LabelledVolume, box: Box | None = None) -> int:
    """Count the annotated instances of a volume or box, slab by slab."""
    box = box or Box.whole(volume.image.shape_ZYX)
    found = np.zeros(0, np.int64)
    for z in range(box.start[0], box.stop[0], _SLAB):
        index = (slice(z, min(z + _SLAB, box.stop[0])), *box.slices[1:])
        labels = volume.labels_ZYX[index]
        if volume.annotated_ZYX is not None:
            labels = labels[volume.annotated_ZYX[index]]
        found = np.union1d(found, np.unique(labels))
    return int(np.count_nonzero(found))


def annotated_share(volumes: Sequence[LabelledVolume]) -> float:
    """Return the share of all voxels that is annotated."""
    total = sum(v.labels_ZYX.size for v in volumes)
    known = sum(
        v.labels_ZYX.size
        if v.annotated_ZYX is None
        else int(np.count_nonzero(v.annotated_ZYX))
        for v in volumes
    )
    return known / total
