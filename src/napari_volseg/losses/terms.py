"""What a channel's loss is made of.

Every term is a function of `ChannelMaps` that returns a scalar: 0 for a perfect
prediction and where nothing is known, and without a gradient at unknown voxels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from napari_volseg.losses.maps import ChannelMaps

__all__ = [
    "Term",
    "binary_cross_entropy",
    "dice",
    "focal",
    "mean_squared_error",
    "root_mean_squared_error",
    "smooth_l1",
    "tversky",
]

Term = Callable[[ChannelMaps], Tensor]

_MAX_WEIGHT = 10.0
"""Most that a rare voxel may count against a common one."""
_EPSILON = 1e-12


def binary_cross_entropy(maps: ChannelMaps) -> Tensor:
    """Return the cross-entropy with automatic positive weight.

    Positive voxels count sqrt(negative / positive) times, between 1 and 10.
    """
    known, target = maps.known, maps.target
    positive = (target * known).sum()
    negative = ((1 - target) * known).sum()
    # The square root: full balance makes objects too large at probability 0.5.
    balance = (negative / positive.clamp(min=1)).sqrt().clamp(1, _MAX_WEIGHT)
    entropy = functional.binary_cross_entropy_with_logits(
        maps.logits, target, pos_weight=balance, reduction="none"
    )
    weight = known * (1 + (balance - 1) * target)
    return (entropy * known).sum() / weight.sum().clamp(min=1)


def dice(maps: ChannelMaps) -> Tensor:
    """Return 1 - Dice of probability and target, over the whole batch."""
    probability = maps.probability * maps.known
    positive = (maps.target * maps.known).sum()
    overlap = (probability * maps.target).sum()
    return 1 - (2 * overlap + 1) / (probability.sum() + positive + 1)


def tversky(alpha: float, beta: float) -> Term:
    """Return the term 1 - TP / (TP + alpha FP + beta FN) (Salehi et al. 2017).

    With both one half it is `dice`.
    """

    def term(maps: ChannelMaps) -> Tensor:
        probability, target = maps.probability * maps.known, maps.target * maps.known
        hit = (probability * target).sum()
        wrong = probability.sum() - hit
        missed = target.sum() - hit
        return 1 - (hit + 0.5) / (hit + alpha * wrong + beta * missed + 0.5)

    return term


def focal(gamma: float) -> Term:
    """Return the focal term (Lin et al. 2017): voxels nearly right count less."""

    def term(maps: ChannelMaps) -> Tensor:
        entropy = functional.binary_cross_entropy_with_logits(
            maps.logits, maps.target, reduction="none"
        )
        p, target = maps.probability, maps.target
        wrong = (p + target - 2 * p * target).clamp(_EPSILON, 1)
        return (wrong**gamma * entropy * maps.known).sum() / _count(maps.known)

    return term


def mean_squared_error(maps: ChannelMaps) -> Tensor:
    """Return the mean squared error, objects and background balanced."""
    return _balanced_mean(torch.square(maps.probability - maps.target), maps)


def root_mean_squared_error(maps: ChannelMaps) -> Tensor:
    """Return the root of the mean squared error, objects and background balanced."""
    square = mean_squared_error(maps)
    # The plain root has an infinite slope at 0, and 0 × infinity is no number.
    return square / (square + _EPSILON).sqrt()


def smooth_l1(maps: ChannelMaps) -> Tensor:
    """Return the mean error, squared where small; objects and background balanced."""
    error = functional.smooth_l1_loss(
        maps.probability, maps.target, beta=0.1, reduction="none"
    )
    return _balanced_mean(error, maps)


def _balanced_mean(error: Tensor, maps: ChannelMaps) -> Tensor:
    """Return the mean in which inside and outside count alike, as far as × 10."""
    known = maps.known
    inside = (maps.target > maps.surface).float() * known
    n, n_inside = known.sum(), inside.sum()
    weight_in = (n / (2 * n_inside).clamp(min=1)).clamp(max=_MAX_WEIGHT)
    weight_out = (n / (2 * (n - n_inside)).clamp(min=1)).clamp(max=_MAX_WEIGHT)
    weight = inside * weight_in + (known - inside) * weight_out
    return (error * weight).sum() / _count(weight)


def _count(weight: Tensor) -> Tensor:
    return weight.sum().clamp(min=1)
