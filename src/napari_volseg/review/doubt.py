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
"""Fewer instances say nothing of what a usual shape is."""
_USUAL, _UNUSUAL = 2.5, 6.0
"""Outlier scores at which a shape begins to be doubted, and is doubted fully."""


def add_doubt(table: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return a table with the columns ``shape_outlier`` and ``doubt``.

    The outlier score is how far an instance lies from the others in size (logarithm
    of its volume) or in roughness (surface to the power of 1.5 over volume, which
    size does not change), the larger of the two, in robust standard deviations
    (1.4826 times the median deviation from the median). Instances that touch the
    border are cut, so they are neither compared with nor scored (0); nor is any
    among fewer than eight others.

    The doubt joins three, each from 0 to 1, as if they were independent chances of
    being wrong: ``1 - (1 - a)(1 - b)(1 - c)``. ``a`` rises from 0 at a mean mask of 1
    to 1 at 0.5 and below; ``b`` is twice the mean boundary inside, at most 1; ``c``
    rises from an outlier score of 2.5 to 1 at 6.
    """
    outlier = _outlier(table)
    trust = 1 - np.clip((outlier - _USUAL) / (_UNUSUAL - _USUAL), 0, 1)
    # Without maps these are NaN, and say nothing.
    trust *= 1 - np.nan_to_num(np.clip(2 * (1 - table["mask_mean"]), 0, 1))
    trust *= 1 - np.nan_to_num(np.clip(2 * table["boundary_inside"], 0, 1))
    rest = {k: v for k, v in table.items() if k not in ("shape_outlier", "doubt")}
    return {**rest, "shape_outlier": outlier, "doubt": 1 - trust}


def _outlier(table: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    whole = ~np.asarray(table["touches_border"], bool)
    score = np.zeros(len(whole))
    if np.count_nonzero(whole) <= _ENOUGH:
        return score
    volume = np.asarray(table["volume_um3"], float)[whole]
    surface = np.asarray(table["surface_um2"], float)[whole]
    roughness = np.log(np.maximum(surface, 1e-12)) * 1.5 - np.log(volume)
    score[whole] = np.maximum(_robust(np.log(volume)), _robust(roughness))
    return score


def _robust(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many robust standard deviations each value lies from the median."""
    away: NDArray[np.float64] = np.abs(values - np.median(values))
    # A floor of 5 %: shapes that are all but equal have no outliers.
    return away / max(1.4826 * float(np.median(away)), 0.05)
