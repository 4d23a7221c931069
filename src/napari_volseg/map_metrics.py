"""Scores of predicted maps against the targets."""

from __future__ import annotations

from collections.abc import Iterable
from math import log10, sqrt
from typing import Any, NamedTuple

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_volseg.targets import Targets

__all__ = ["map_metrics"]

_WINDOW = 7
_C1, _C2 = 0.01**2, 0.03**2
"""Constants of Wang et al. for values in [0, 1]."""
_HALF = 128
_LEAST_ERROR = 1e-10
"""Mean squared error of a PSNR of 100 dB, the most that is reported."""

Map = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def map_metrics(
    volumes: Iterable[tuple[NDArray[np.uint8], Targets]], tolerance: float = 1.0
) -> dict[str, float]:
    """Compare maps with targets where these are valid.

    Parameters
    ----------
    volumes
        Maps (mask, boundary, distance as uint8 CZYX, 255 being 1) and targets, of
        one volume or several; scores are of all their valid voxels together.
    tolerance
        Voxels that a boundary may lie beside the true one.

    Returns
    -------
    dict
        - ``mask_dice``: 2 TP / (2 TP + FP + FN) of voxels, both sides cut at one half.
        - ``boundary_f1``: the harmonic mean of the share of predicted boundary voxels
          within `tolerance` of a true one, and of true ones within `tolerance` of a
          predicted one, cut at one half.
        - ``distance_rmse``: root mean squared error of the distance, 0 to 1.
        - ``distance_psnr``: the same in decibels of 1 / error², at most 100.
        - ``distance_ssim``: mean structural similarity of the distance in windows of
          7 voxels, of which the valid ones count (Wang et al. 2004).

        Of maps without a valid voxel, and of a mask or boundary that is empty on
        both sides, the scores are those of perfect maps.
    """
    sums = [_measure(maps, targets, tolerance) for maps, targets in volumes]
    total = _Sums(*(sum(column) for column in zip(*sums, strict=True)))
    square = total.square_error / total.n_distance if total.n_distance else 0.0
    similar = total.similarity / total.n_distance if total.n_distance else 1.0
    found = total.found / total.n_predicted if total.n_predicted else 0.0
    hit = total.hit / total.n_true if total.n_true else 0.0
    is_empty = not total.n_predicted and not total.n_true
    return {
        "mask_dice": 2 * total.overlap / total.n_mask if total.n_mask else 1.0,
        "boundary_f1": 1.0 if is_empty else _harmonic_mean(found, hit),
        "distance_rmse": sqrt(square),
        "distance_psnr": -10 * log10(max(square, _LEAST_ERROR)),
        "distance_ssim": similar,
    }


class _Sums(NamedTuple):
    """What adds up over volumes; numbers of voxels unless said otherwise."""

    overlap: float
    """In both masks."""
    n_mask: float
    """In one mask, plus in the other."""
    found: float
    """Predicted boundary near a true one."""
    n_predicted: float
    hit: float
    """True boundary near a predicted one."""
    n_true: float
    square_error: float
    """Sum over the distance."""
    similarity: float
    """Sum over the distance."""
    n_distance: float


def _measure(maps_CZYX: Map, targets: Targets, tolerance: float) -> _Sums:
    true, valid = targets.values_CZYX, targets.valid_CZYX
    masks = [(m[0] >= _HALF) & valid[0] for m in (maps_CZYX, true)]
    predicted, boundary = ((m[1] >= _HALF) & valid[1] for m in (maps_CZYX, true))
    known = valid[2]
    error = maps_CZYX[2][known].astype(np.float64) - true[2][known]
    similarity = _similarity(maps_CZYX[2], true[2], known)
    return _Sums(
        overlap=_count(masks[0] & masks[1]),
        n_mask=_count(masks[0]) + _count(masks[1]),
        found=_count(predicted & _near(boundary, tolerance)),
        n_predicted=_count(predicted),
        hit=_count(boundary & _near(predicted, tolerance)),
        n_true=_count(boundary),
        square_error=float(np.square(error / 255).sum()),
        similarity=float(similarity[known].sum(dtype=np.float64)),
        n_distance=_count(known),
    )


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _harmonic_mean(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0


def _near(mask: Mask, tolerance: float) -> Mask:
    """Return the voxels at most `tolerance` voxels from one of the mask."""
    if tolerance <= 0 or not mask.any():
        return mask
    distance = edt.edt(np.ascontiguousarray(~mask), black_border=False)
    return np.asarray(distance <= tolerance + 1e-3)


def _similarity(one: Map, other: Map, known: Mask) -> NDArray[np.float32]:
    """Return the structural similarity of every window by its middle."""
    weight = known.astype(np.float32)
    x, y = (np.where(known, m, 0).astype(np.float32) / 255 for m in (one, other))
    share = np.maximum(_window_means(weight), 1e-6)
    mean_x, mean_y, square_x, square_y, product = (
        _window_means(values) / share for values in (x, y, x * x, y * y, x * y)
    )
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    similarity /= (mean_x**2 + mean_y**2 + _C1) * (variances + _C2)
    return np.asarray(similarity, np.float32)


def _window_means(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the means of windows, cut to the longest odd length that fits."""
    size = [min(_WINDOW, n - 1 + n % 2) for n in values.shape]
    means: NDArray[np.float32] = ndimage.uniform_filter(values, size, mode="constant")
    return means
