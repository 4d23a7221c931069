"""Structural similarity (Wang et al. 2004) of the known voxels of two maps."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from napari_volseg.losses.maps import ChannelMaps
from napari_volseg.losses.terms import Term

__all__ = ["similarity_map", "structural_similarity"]

_C1, _C2 = 0.01**2, 0.03**2
"""Constants of Wang et al. for values in [0, 1]."""
_EPSILON = 1e-6


def structural_similarity(window: int) -> Term:
    """Return the term 1 - mean SSIM of probability and target.

    Means, variances and the covariance of a window are those of its known voxels,
    and the mean is over known voxels, so the window may reach over the edge of the
    annotation or of the patch. Along an axis shorter than the window it is cut to
    the longest odd length, so thin patches and single slices are possible.

    Parameters
    ----------
    window
        Edge in voxels, odd.
    """

    def term(maps: ChannelMaps) -> Tensor:
        dissimilarity = 1 - similarity_map(maps, window)
        return (dissimilarity * maps.known).sum() / maps.known.sum().clamp(min=1)

    return term


def similarity_map(maps: ChannelMaps, window: int) -> Tensor:
    """Return the SSIM of every window by its middle, (B, Z, Y, X)."""
    x, y = maps.probability * maps.known, maps.target * maps.known
    sums = torch.stack(
        [maps.known, x, y, x * maps.probability, y * maps.target, x * maps.target], 1
    )
    means = _window_means(sums, window)
    share = means[:, 0].clamp(min=_EPSILON)
    mean_x, mean_y, square_x, square_y, product = (
        means[:, i] / share for i in range(1, 6)
    )
    var_x, var_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    similarity: Tensor = (
        (2 * mean_x * mean_y + _C1)
        * (2 * covariance + _C2)
        / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))
    )
    return similarity


def _window_means(values_BNZYX: Tensor, window: int) -> Tensor:
    """Return the means of windows; beyond the edge lie zeros."""
    sums: Tensor = _WindowSums.apply(values_BNZYX, window)  # type: ignore[no-untyped-call]
    lengths = [_fitting(window, n) for n in values_BNZYX.shape[2:]]
    return sums / prod(lengths)


def _fitting(window: int, length: int) -> int:
    """Return the longest odd number up to both."""
    return min(window, length - 1 + length % 2)


class _WindowSums(torch.autograd.Function):
    """Sums of windows by shifted additions, several times as fast as average pooling.

    A voxel is in the window of another if that is in its own, so the gradient is
    the same sum of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, values_BNZYX: Tensor, window: int) -> Tensor:
        ctx.window = window
        return _sum_windows(values_BNZYX, window)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum_windows(gradients[0], ctx.window), None


def _sum_windows(values_BNZYX: Tensor, window: int) -> Tensor:
    for axis, length in enumerate(values_BNZYX.shape[2:], start=2):
        sums = values_BNZYX.clone()
        for shift in range(1, _fitting(window, length) // 2 + 1):
            n = length - shift
            sums.narrow(axis, 0, n).add_(values_BNZYX.narrow(axis, shift, n))
            sums.narrow(axis, shift, n).add_(values_BNZYX.narrow(axis, 0, n))
        values_BNZYX = sums
    return values_BNZYX
