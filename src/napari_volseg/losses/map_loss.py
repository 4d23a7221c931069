"""How the terms of the channels become one number to minimise.

Shape suffixes: B batch, C channel (mask, boundary, distance), Z/Y/X space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_volseg.config import LossConfig, ModelConfig
from napari_volseg.losses.maps import ChannelMaps
from napari_volseg.losses.perceptual import Features, feature_distance
from napari_volseg.losses.similarity import structural_similarity
from napari_volseg.losses.terms import (
    Term,
    binary_cross_entropy,
    dice,
    focal,
    mean_squared_error,
    root_mean_squared_error,
    smooth_l1,
    tversky,
)

__all__ = ["Losses", "MapLoss", "build_loss"]

_MAX_LOG_VARIANCE = 5.0
"""A learnt weight stays between exp(-5) and exp(5)."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss of a batch."""

    objective: Tensor
    """What to minimise; under uncertainty balancing it may be negative."""
    total: Tensor
    """The weighted sum of the channels' losses, never negative, detached."""
    parts: Tensor
    """The losses of mask, boundary and distance at the finest output, detached."""


class MapLoss(nn.Module):
    """The loss of the three maps, counted on known voxels only.

    Its parameters, the log-variances of uncertainty balancing, are trained and
    kept like those of the network; otherwise it has none. Where several processes
    share a batch, their gradients are averaged like those of the network.

    Parameters
    ----------
    channels
        For mask, boundary and distance the terms with their weights.
    weights
        Weight of each channel in the total.
    surfaces
        For each channel the target value above which a voxel lies in an object.
    scales
        How often maps are averaged by two for further losses, plus one.
    balance
        ``uncertainty`` learns a variance of each channel (Kendall et al. 2018,
        arXiv:1705.07115): the objective is the sum of
        ``exp(-s) / 2 * weight * loss + s / 2``.
    """

    def __init__(
        self,
        channels: Sequence[Sequence[tuple[float, Term]]],
        weights: Sequence[float],
        surfaces: Sequence[float] = (0.0, 0.0, 0.0),
        scales: int = 1,
        balance: Literal["fixed", "uncertainty"] = "fixed",
    ) -> None:
        super().__init__()
        self._channels = channels
        self._weights = tuple(weights)
        self._surfaces = tuple(surfaces)
        self._scales = scales
        self.log_variance: nn.Parameter | None = None
        if balance == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(channels)))

    def forward(
        self, outputs: Sequence[Tensor], targets_BCZYX: Tensor, valid_BCZYX: Tensor
    ) -> Losses:
        """Return the loss of a batch, in float32 whatever the outputs are in.

        Parameters
        ----------
        outputs
            Logits, finest first. Coarser ones are interpolated to the finest and
            count half of the level before them (deep supervision).
        targets_BCZYX
            Values in [0, 1].
        valid_BCZYX
            True where the target is known; other voxels count nothing, whatever
            the logits and targets there, numbers or not.
        """
        device = targets_BCZYX.device
        scale = torch.as_tensor(self._weights, device=device, dtype=torch.float32)
        total = torch.zeros((), device=device)
        by_channel = torch.zeros(len(self._channels), device=device)
        parts = by_channel
        share = 1.0 / sum(0.5**level for level in range(len(outputs)))
        with torch.autocast(device.type, enabled=False):
            for level, logits in enumerate(outputs):
                if level:
                    logits = functional.interpolate(
                        logits.float(), targets_BCZYX.shape[2:], mode="trilinear"
                    )
                losses = self._losses(logits.float(), targets_BCZYX, valid_BCZYX)
                parts = losses.detach() if level == 0 else parts
                total = total + share * 0.5**level * (losses * scale).sum()
                by_channel = by_channel + share * 0.5**level * losses
            objective = total
            if self.log_variance is not None:
                counts = valid_BCZYX.flatten(2).any(2).any(0) & (scale > 0)
                objective = self._balanced(by_channel * scale, counts)
        return Losses(objective, total.detach(), parts)

    def _losses(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of each channel."""
        return torch.stack(
            [
                self._channel_loss(
                    terms,
                    ChannelMaps.of(
                        logits[:, c], targets[:, c], valid[:, c], self._surfaces[c]
                    ),
                )
                for c, terms in enumerate(self._channels)
            ]
        )

    def _channel_loss(
        self, terms: Sequence[tuple[float, Term]], maps: ChannelMaps
    ) -> Tensor:
        losses = [weight * term(maps) for weight, term in terms]
        for _ in range(1, self._scales):
            maps = maps.averaged()
            losses += [weight * term(maps) for weight, term in terms]
        loss = losses[0]
        for other in losses[1:]:
            loss = loss + other
        return loss / self._scales

    def _balanced(self, losses: Tensor, counts: Tensor) -> Tensor:
        assert self.log_variance is not None
        s = self.log_variance.clamp(-_MAX_LOG_VARIANCE, _MAX_LOG_VARIANCE)
        # A channel of which nothing is known says nothing of its variance.
        return torch.where(counts, 0.5 * torch.exp(-s) * losses + 0.5 * s, 0.0).sum()


def build_loss(
    model: ModelConfig, *, surface: float = 0.0, features: Features | None = None
) -> MapLoss:
    """Return the loss that a configuration describes.

    Parameters
    ----------
    surface
        Value of the distance target at an object's surface.
    features
        From `load_features`; without it the perceptual terms are left out.
    """
    terms = _terms(model.loss, features)
    channels = [
        _weighted(weights, terms)
        for weights in (model.loss.mask, model.loss.boundary, model.loss.distance)
    ]
    return MapLoss(
        channels,
        model.loss_weights,
        (0.0, 0.0, surface),
        model.loss.scales,
        model.loss_balance,
    )


def _terms(config: LossConfig, features: Features | None) -> Mapping[str, Term]:
    return {
        "bce": binary_cross_entropy,
        "dice": dice,
        "focal": focal(config.focal_gamma),
        "tversky": tversky(config.tversky_alpha, config.tversky_beta),
        "mse": mean_squared_error,
        "smooth_l1": smooth_l1,
        "rmse": root_mean_squared_error,
        "ssim": structural_similarity(config.ssim_window),
        "perceptual": feature_distance(features) if features else _nothing,
    }


def _weighted(
    weights: Mapping[str, float], terms: Mapping[str, Term]
) -> list[tuple[float, Term]]:
    return [(weight, terms[name]) for name, weight in weights.items() if weight > 0]


def _nothing(maps: ChannelMaps) -> Tensor:
    return maps.logits.sum() * 0.0
