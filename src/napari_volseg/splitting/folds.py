"""Divide the annotation into folds for cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.splitting.survey import Survey, Traits, difference, size_bounds
from napari_volseg.volume import LabelledVolume

__all__ = ["hold_out_fold"]

_PER_CELL = 30
"""Objects that a cell of a fold should hold when a fold has several."""
_MAX_CELLS = 4
_MAX_SWAPS = 200


def hold_out_fold(
    volumes: Sequence[LabelledVolume], folds: int, fold: int
) -> list[tuple[int, Box]]:
    """Return what one of several folds holds out: index of a volume, and box.

    The folds are disjoint, together they cover all that is annotated, and each is
    as like the whole as can be in density, sizes, foreground and intensity. With at
    least as many volumes as folds, whole volumes are dealt out. Otherwise each
    volume is cut into cells with equal shares of its annotation, and the cells are
    dealt out: one for each fold, or up to four where each can hold some 30 objects.

    Parameters
    ----------
    folds, fold
        Number of folds, at least 2, and the one that is held out, from 0.

    Raises
    ------
    DataError
        If a fold would hold no object.
    """
    if folds < 2:
        raise DataError(
            f"data.folds is {folds} and data.fold is {fold}: give at least 2 folds, or "
            "set both to 0 for no cross-validation"
        )
    if not 0 <= fold < folds:
        raise DataError(
            f"data.fold is {fold}, but with data.folds={folds} it must be from 0 to "
            f"{folds - 1}"
        )
    surveys = [Survey(volume) for volume in volumes]
    if len(volumes) >= folds:
        bounds = size_bounds(np.concatenate([s.sizes for s in surveys]))
        surveys = [Survey(volume, bounds) for volume in volumes]
        dealt = _deal([(i, s.box, s.whole) for i, s in enumerate(surveys)], folds)
    else:
        dealt = [[] for _ in range(folds)]
        for index, survey in enumerate(surveys):
            for held, more in zip(dealt, _divide(index, survey, folds), strict=True):
                held += more
    for number, cells in enumerate(dealt):
        if not any(traits.n_ids for _, _, traits in cells):
            raise DataError(
                f"data.folds={folds} leaves fold {number} without an object: use fewer "
                "folds, or annotate more"
            )
    return [(index, box) for index, box, _ in dealt[fold]]


Cell = tuple[int, Box, Traits]


def _divide(index: int, survey: Survey, folds: int) -> list[list[Cell]]:
    per_fold = int(survey.whole.n_objects) // folds // _PER_CELL
    per_fold = min(_MAX_CELLS, max(1, per_fold))
    boxes = _cut(survey, survey.box, folds * per_fold)
    return _deal([(index, box, survey.describe(box)) for box in boxes], folds)


def _cut(survey: Survey, box: Box, n: int) -> list[Box]:
    """Cut a box, across its longest axis, into `n` parts of equal annotation."""
    if n == 1:
        return [box]
    axis = int(np.argmax(box.shape))
    length = box.shape[axis]
    if length < 2:
        raise DataError(
            "the annotation is too small for data.folds: use fewer folds, or annotate "
            "more"
        )
    first = n // 2
    filled = np.cumsum(survey.known_along(axis, box))
    total = filled[-1]
    at = int(np.searchsorted(filled, total * first / n)) + 1 if total else length // 2
    at = min(max(1, at), length - 1)
    middle, end = list(box.start), list(box.stop)
    middle[axis] = end[axis] = box.start[axis] + at
    lower = Box(box.start, (end[0], end[1], end[2]))
    upper = Box((middle[0], middle[1], middle[2]), box.stop)
    return _cut(survey, lower, first) + _cut(survey, upper, n - first)


def _deal(cells: Sequence[Cell], folds: int) -> list[list[Cell]]:
    """Deal cells out to folds, equally many to each, so that all are like the whole.

    Cells go to the folds in turn, those with the most objects first, and are then
    exchanged as long as the folds become more like the whole by it.
    """
    whole = cells[0][2]
    for _, _, traits in cells[1:]:
        whole = whole + traits
    order = sorted(range(len(cells)), key=lambda i: -cells[i][2].n_objects)
    hands: list[list[int]] = [[] for _ in range(folds)]
    for turn, number in enumerate(order):
        lap, seat = divmod(turn, folds)
        hands[seat if lap % 2 == 0 else folds - 1 - seat].append(number)

    def unlike(hand: Sequence[int]) -> float:
        total = cells[hand[0]][2]
        for number in hand[1:]:
            total = total + cells[number][2]
        return min(difference(total, whole), 100.0)

    for _ in range(_MAX_SWAPS if len(cells) > folds else 0):
        if not _swap(hands, unlike):
            break
    return [[cells[number] for number in sorted(hand)] for hand in hands]


def _swap(hands: list[list[int]], unlike: Callable[[Sequence[int]], float]) -> bool:
    """Make the first exchange of two cells that helps; return whether there is one."""
    for one, other in combinations(hands, 2):
        before = unlike(one) + unlike(other)
        for i, j in product(range(len(one)), range(len(other))):
            one[i], other[j] = other[j], one[i]
            if unlike(one) + unlike(other) < before - 1e-9:
                return True
            one[i], other[j] = other[j], one[i]
    return False
