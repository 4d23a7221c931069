"""Boxes that together are most like the whole annotation."""

from __future__ import annotations

from itertools import product
from math import prod

from napari_volseg.geometry import Box, Size
from napari_volseg.splitting.survey import Survey, Traits, difference
from napari_volseg.volume import LabelledVolume

__all__ = ["choose_validation_boxes"]

_GRID = 4
"""Candidate positions of a box along each axis; twice as many for several boxes."""
_MAX_VOXELS = 4_000_000
"""Most that is held out of one volume: it is predicted after every epoch."""
_PER_BOX = 30
"""Objects that a box should hold when there are several."""
_MAX_BOXES = 4


def choose_validation_boxes(volume: LabelledVolume, fraction: float) -> tuple[Box, ...]:
    """Choose the parts of a volume whose objects are most like the whole.

    One box, or up to four where each can hold some 30 objects. A box spans the
    shortest axis of the annotation and takes an equal share of the two others, so
    that it cuts few objects; together the boxes never hold more than four million
    voxels. Box after box, the position is taken at which all boxes together come
    nearest to the whole annotation in density, size distribution and foreground of
    objects and in mean and spread of the intensity.

    Returns
    -------
    tuple of Box
        Disjoint. Empty when no candidate holds an object, or when the only objects
        would be held out.
    """
    survey = Survey(volume)
    n_boxes = int(survey.whole.n_objects * fraction) // _PER_BOX
    n_boxes = min(_MAX_BOXES, max(1, n_boxes))
    edges = _edges(survey.box.shape, fraction / n_boxes, n_boxes)
    positions = _GRID if n_boxes == 1 else 2 * _GRID
    described = [
        (box, survey.describe(box)) for box in _candidates(survey.box, edges, positions)
    ]
    chosen: list[Box] = []
    together: Traits | None = None
    for _ in range(n_boxes):
        best: tuple[float, Box, Traits] | None = None
        for box, traits in described:
            if any(_overlap(box, other) for other in chosen):
                continue
            joint = traits if together is None else together + traits
            if traits.n_ids == 0 or joint.n_ids >= survey.whole.n_ids:
                continue
            distance = difference(joint, survey.whole)
            if best is None or distance < best[0] - 1e-9:
                best = (distance, box, joint)
        if best is None:
            break
        chosen.append(best[1])
        together = best[2]
    return tuple(chosen)


def _edges(shape: Size, fraction: float, n_boxes: int) -> list[int]:
    shortest = shape.index(min(shape))
    edges = [
        n if axis == shortest else max(1, round(n * fraction**0.5))
        for axis, n in enumerate(shape)
    ]
    shrink = min(1.0, (_MAX_VOXELS / n_boxes / prod(edges)) ** (1 / 3))
    return [max(1, int(e * shrink)) for e in edges]


def _candidates(outer: Box, edges: list[int], positions: int) -> list[Box]:
    starts = [
        sorted({a + round((n - e) * i / (positions - 1)) for i in range(positions)})
        for a, n, e in zip(outer.start, outer.shape, edges, strict=True)
    ]
    return [
        Box((z, y, x), (z + edges[0], y + edges[1], x + edges[2]))
        for z, y, x in product(*starts)
    ]


def _overlap(one: Box, other: Box) -> bool:
    return all(
        a < d and c < b
        for a, b, c, d in zip(one.start, one.stop, other.start, other.stop, strict=True)
    )
