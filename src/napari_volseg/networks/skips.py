"""Ways in which RSUNet joins fine features to coarse ones.

A join takes the skips of its level, finest column first, and the upsampled
features of the level below, all (B, C, Z, Y, X) of one shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from napari_volseg.networks.pyramid import Pyramid
from napari_volseg.networks.resizing import Upsample
from napari_volseg.networks.stages import NormName, conv_norm

__all__ = ["AttentionGate", "NestedSkips", "SkipName", "build_join", "joined_channels"]

SkipName = Literal["add", "concat", "attention", "dense"]


def build_join(name: SkipName, channels: int) -> nn.Module:
    """Return the join of a level of `channels` feature maps."""
    if name == "add":
        return _Add()
    return AttentionGate(channels) if name == "attention" else _Concat()


def joined_channels(name: SkipName, channels: int, n_skips: int) -> int:
    """Return the channels after a join of `n_skips` skips and the level below."""
    return channels if name == "add" else channels * (n_skips + 1)


class _Add(nn.Module):
    def forward(self, skips: Sequence[Tensor], below: Tensor) -> Tensor:
        return skips[0] + below


class _Concat(nn.Module):
    def forward(self, skips: Sequence[Tensor], below: Tensor) -> Tensor:
        return torch.cat([*skips, below], dim=1)


class AttentionGate(nn.Module):
    """Weigh the voxels of a skip by what the level below found, then concatenate.

    After Attention U-Net (Oktay et al. 2018, arXiv:1804.03999); both sides have the
    same size here, so nothing is resampled within the gate.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.of_skip = nn.Conv3d(channels, hidden, 1, bias=False)
        self.of_below = nn.Conv3d(channels, hidden, 1)
        self.weight = nn.Conv3d(hidden, 1, 1)

    def forward(self, skips: Sequence[Tensor], below: Tensor) -> Tensor:
        """Return the gated skip and the level below, concatenated."""
        (skip,) = skips
        seen = torch.relu(self.of_skip(skip) + self.of_below(below))
        return torch.cat([skip * torch.sigmoid(self.weight(seen)), below], dim=1)


class NestedSkips(nn.Module):
    """The inner nodes of UNet++ (Zhou et al. 2020, arXiv:1912.05074).

    Node (level, column) convolves all columns before it on its level, concatenated
    with the upsampled node of the level below in the column before.
    """

    def __init__(
        self, filters: Sequence[int], pyramid: Pyramid, norm: NormName
    ) -> None:
        super().__init__()
        self.grow = nn.ModuleDict()
        self.mix = nn.ModuleDict()
        for column in range(1, len(filters) - 1):
            for level in range(len(filters) - 1 - column):
                n, kernel = filters[level], pyramid.kernels[level]
                key = f"{level}_{column}"
                self.grow[key] = Upsample(filters[level + 1], n, pyramid.factors[level])
                self.mix[key] = nn.Sequential(
                    conv_norm(n * (column + 1), n, kernel, norm), nn.ReLU(inplace=True)
                )

    def forward(self, features: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return, for every level but the coarsest, its columns."""
        nodes = [[x] for x in features]
        for column in range(1, len(features) - 1):
            for level in range(len(features) - 1 - column):
                key = f"{level}_{column}"
                below = self.grow[key](nodes[level + 1][column - 1])
                mixed = self.mix[key](torch.cat([*nodes[level], below], dim=1))
                nodes[level].append(mixed)
        return nodes[:-1]
