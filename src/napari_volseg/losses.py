"""Losses of the three maps, counted on known voxels only.

Shape suffixes: B batch, C channel (mask, boundary, distance), Z/Y/X space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["map_loss"]

_MAX_WEIGHT = 10.0
"""Most that a rare voxel may count against a common one."""


def map_loss(
    outputs: Sequence[Tensor],
    targets_BCZYX: Tensor,
    valid_BCZYX: Tensor,
    weights: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Return the total loss and the three losses of the finest output.

    Mask and boundary: Dice plus cross-entropy with automatic positive weight.
    Distance: smooth L1 on probabilities, objects and background balanced.

    Parameters
    ----------
    outputs
        Logits, finest first. Coarser ones are interpolated to the finest and
        count half of the level before them (deep supervision).
    targets_BCZYX
        Values in [0, 1].
    valid_BCZYX
        True where the target is known; other voxels count nothing, whatever
        the logits there.
    weights
        Weight of each channel's loss in the total.

    Returns
    -------
    total, losses
        A scalar, and a detached tensor of three.
    """
    scale = torch.as_tensor(weights, device=targets_BCZYX.device, dtype=torch.float32)
    total = torch.zeros((), device=targets_BCZYX.device)
    finest = total
    share = 1.0 / sum(0.5**level for level in range(len(outputs)))
    for level, logits in enumerate(outputs):
        if level:
            logits = functional.interpolate(
                logits.float(), targets_BCZYX.shape[2:], mode="trilinear"
            )
        losses = _channel_losses(logits.float(), targets_BCZYX, valid_BCZYX)
        finest = losses.detach() if level == 0 else finest
        total = total + share * 0.5**level * (losses * scale).sum()
    return total, finest


def _channel_losses(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    known = valid.float()
    return torch.stack(
        [
            _segmentation_loss(logits[:, 0], targets[:, 0], known[:, 0]),
            _segmentation_loss(logits[:, 1], targets[:, 1], known[:, 1]),
            _distance_loss(logits[:, 2], targets[:, 2], known[:, 2]),
        ]
    )


def _segmentation_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    positive = (target * known).sum()
    negative = ((1 - target) * known).sum()
    # The square root: full balance makes objects too large at probability 0.5.
    balance = (negative / positive.clamp(min=1)).sqrt().clamp(1, _MAX_WEIGHT)
    entropy = functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=balance, reduction="none"
    )
    weight = known * (1 + (balance - 1) * target)
    cross_entropy = (entropy * known).sum() / weight.sum().clamp(min=1)
    probability = torch.sigmoid(logits) * known
    overlap = (probability * target).sum()
    dice = 1 - (2 * overlap + 1) / (probability.sum() + positive + 1)
    return cross_entropy + dice


def _distance_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    inside = (target > 0).float() * known
    n, n_inside = known.sum(), inside.sum()
    weight_in = (n / (2 * n_inside).clamp(min=1)).clamp(max=_MAX_WEIGHT)
    weight_out = (n / (2 * (n - n_inside)).clamp(min=1)).clamp(max=_MAX_WEIGHT)
    weight = inside * weight_in + (known - inside) * weight_out
    error = functional.smooth_l1_loss(
        torch.sigmoid(logits), target, beta=0.1, reduction="none"
    )
    return (error * weight).sum() / weight.sum().clamp(min=1)
