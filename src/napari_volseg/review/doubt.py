"""Which instances are most likely wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DOUBTFUL", "add_doubt"]

DOUBTFUL = 0.5
"""An instance of at least this doubt is doubtful, unless the user moves it."""

_ENOUGH = 8
"""Fewer instances do not say what is usual."""
_UNUSUAL = 2.5
"""Robust standard deviations at which the doubt is a half."""
_MASK_FLOOR, _BOUNDARY_FLOOR = 0.02, 0.03
_ROUGHNESS_FLOOR, _SIZE_FLOOR = 0.05, 0.2
"""Smallest standard deviations: what is all but equal has no outliers."""
_TO_SIGMA = 0.6745

Column = NDArray[np.float64]


def add_doubt(table: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return a table with the columns ``shape_outlier`` and ``doubt``.

    An instance is compared with the others of its volume, so that the doubtful ones
    are the exception, whatever level a network's maps have. How far it lies from the
    median is measured in robust standard deviations, one for each side: the quartile
    on that side lies 0.6745 of them away.

    The outlier score is the largest of three such distances: how much rougher an
    instance is than usual (surface to the power of 1.5 over volume, which size does
    not change), how much smaller, and half of how much larger: large instances are
    wrong less often. Instances that touch the border are cut, so they are neither
    compared with nor scored (0); nor is any among eight or fewer whole ones.

    The doubt joins ``s``, the root of the sum of squares of the outlier score and of
    the distances of a mean mask below, and of a boundary inside above, the usual
    ones: ``s**2 / (s**2 + 6.25)``, which is a half at 2.5 standard deviations. Among
    eight or fewer instances mask and boundary are compared with 1 and 0 instead, and
    0.5 of either is a doubt of a half.
    """
    outlier = _outlier(table)
    mask = np.asarray(table["mask_mean"], float)
    boundary = np.asarray(table["boundary_inside"], float)
    if len(mask) > _ENOUGH:
        away = _above(-mask, _MASK_FLOOR), _above(boundary, _BOUNDARY_FLOOR)
    else:
        away = 2 * _UNUSUAL * (1 - mask), 2 * _UNUSUAL * boundary
    # Without maps these are NaN, and say nothing.
    squares = outlier**2 + sum(np.nan_to_num(z) ** 2 for z in away)
    rest = {k: v for k, v in table.items() if k not in ("shape_outlier", "doubt")}
    return {
        **rest,
        "shape_outlier": outlier,
        "doubt": squares / (squares + _UNUSUAL**2),
    }


def _outlier(table: Mapping[str, NDArray[Any]]) -> Column:
    whole = ~np.asarray(table["touches_border"], bool)
    score = np.zeros(len(whole))
    if np.count_nonzero(whole) <= _ENOUGH:
        return score
    size = np.log(np.asarray(table["volume_um3"], float)[whole])
    surface = np.asarray(table["surface_um2"], float)[whole]
    roughness = np.log(np.maximum(surface, 1e-12)) * 1.5 - size
    small, large = _above(-size, _SIZE_FLOOR), _above(size, _SIZE_FLOOR) / 2
    rough = _above(roughness, _ROUGHNESS_FLOOR)
    score[whole] = np.maximum(rough, np.maximum(small, large))
    return score


def _above(values: Column, floor: float) -> Column:
    """Return how many robust standard deviations each value lies above the median."""
    median, quartile = np.quantile(values, (0.5, 0.75))
    sigma = max(float(quartile - median) / _TO_SIGMA, floor)
    above: Column = np.maximum(values - median, 0) / sigma
    return above
