"""Which part of the annotation is held out to validate on.

The labels in a held-out box and in a guard gap around it are never learnt
from; see ``docs/decisions``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.volume import LabelledVolume

__all__ = ["annotated_box", "choose_validation_box", "guard_gap"]

_GRID = 4
"""Candidate positions of the held-out box along each of its two cut axes."""
_MAX_VOXELS = 4_000_000
"""Most that is held out of one volume: it is predicted after every epoch."""
_MAX_SAMPLE = 2_000_000


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


def choose_validation_box(volume: LabelledVolume, fraction: float) -> Box | None:
    """Choose the part of a volume whose objects are most like the whole.

    The box spans the shortest axis of the annotation and takes the square root
    of `fraction` of each of the two others, so that it cuts few objects, but never
    holds more than four million voxels. Among
    the candidate positions the one is taken whose density, object size and
    share of foreground come nearest to those of the whole annotation.

    Returns
    -------
    Box or None
        None when no candidate holds an object, or when the only objects would
        be held out.
    """
    outer = annotated_box(volume)
    labels = volume.labels_ZYX[outer.slices]
    known = None if volume.annotated_ZYX is None else volume.annotated_ZYX[outer.slices]
    shortest = int(np.argmin(outer.shape))
    edges = [
        n if axis == shortest else max(1, round(n * fraction**0.5))
        for axis, n in enumerate(outer.shape)
    ]
    shrink = min(1.0, (_MAX_VOXELS / prod(edges)) ** (1 / 3))
    edges = [max(1, int(e * shrink)) for e in edges]
    starts = [
        sorted({round((n - e) * i / (_GRID - 1)) for i in range(_GRID)})
        for n, e in zip(outer.shape, edges, strict=True)
    ]
    whole = _describe(labels, known)
    best: tuple[float, Box] | None = None
    for start in product(*starts):
        inner = Box(
            start,  # type: ignore[arg-type]  # three axes by construction
            tuple(s + e for s, e in zip(start, edges, strict=True)),  # type: ignore[arg-type]
        )
        part = _describe(
            labels[inner.slices], None if known is None else known[inner.slices]
        )
        if part is None or whole is None or part[3] >= whole[3]:
            continue
        distance = sum(
            abs(float(np.log(a / b))) for a, b in zip(part[:3], whole[:3], strict=True)
        )
        if best is None or distance < best[0] - 1e-9:
            best = (distance, inner)
    if best is None:
        return None
    shift = outer.start
    z, y, x = (a + s for a, s in zip(best[1].start, shift, strict=True))
    dz, dy, dx = best[1].shape
    return Box((z, y, x), (z + dz, y + dy, x + dx))


def _describe(
    labels: NDArray[np.integer], known: NDArray[np.bool_] | None
) -> tuple[float, float, float, int] | None:
    """Objects per voxel, median size, share of foreground, number of objects."""
    step = max(1, round((labels.size / _MAX_SAMPLE) ** (1 / 3)))
    sample = labels[:, ::step, ::step]
    values = sample[known[:, ::step, ::step]] if known is not None else sample.ravel()
    ids, sizes = np.unique(values[values != 0], return_counts=True)
    if ids.size == 0:
        return None
    share = sizes.sum() / values.size
    return ids.size / values.size, float(np.median(sizes)), float(share), int(ids.size)
