"""What one level of RSUNet computes: convolutions, residual blocks, attention.

Shape suffixes: B batch, C channel, Z/Y/X space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from napari_volseg.geometry import Size

__all__ = ["SpatialAttention", "Stage", "StageOptions", "conv_norm"]

NormName = Literal["batch", "group", "instance"]

_ATTENTION_REDUCTION = 8
"""Channels of a map for each channel in which its attention is computed."""


@dataclass(frozen=True, slots=True)
class StageOptions:
    """What all stages of a network share."""

    norm: NormName = "batch"
    blocks: int = 1
    """Residual blocks of two convolutions."""
    dropout: float = 0.0
    """Share of feature maps dropped in each residual block while training."""


class Stage(nn.Module):
    """A convolution, then residual blocks of two."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: Size,
        options: StageOptions,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.enter = conv_norm(n_in, n_out, kernel, options.norm)
        self.act = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(
            *(_Residual(n_out, kernel, options) for _ in range(options.blocks))
        )
        self.attention = SpatialAttention(n_out) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, n_out, Z, Y, X)."""
        out: Tensor = self.attention(self.blocks(self.act(self.enter(x))))
        return out


class SpatialAttention(nn.Module):
    """Multiply every voxel by one weight in (0, 1), computed from its channels.

    The spatial half of scSE (Roy et al. 2018, arXiv:1803.02579) with a hidden layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _ATTENTION_REDUCTION)
        self.weight = nn.Sequential(
            nn.Conv3d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted maps, in the shape of the input."""
        out: Tensor = x * self.weight(x)
        return out


class _Residual(nn.Module):
    def __init__(self, n: int, kernel: Size, options: StageOptions) -> None:
        super().__init__()
        self.first = conv_norm(n, n, kernel, options.norm)
        self.second = conv_norm(n, n, kernel, options.norm)
        self.act = nn.ReLU(inplace=True)
        # Neighbouring voxels are so alike that only whole maps are worth dropping
        # (Tompson et al. 2015, arXiv:1411.4280).
        self.drop = nn.Dropout3d(options.dropout) if options.dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.drop(self.act(self.first(x))))
        out: Tensor = self.act(x + y)
        return out


def conv_norm(n_in: int, n_out: int, kernel: Size, norm: NormName) -> nn.Sequential:
    """Return a convolution that keeps the size, and its normalisation."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Sequential(
        nn.Conv3d(n_in, n_out, kernel, padding=padding, bias=False),
        _norm(norm, n_out),
    )


def _norm(name: NormName, n: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm3d(n)
    if name == "group":
        groups = next(g for g in (8, 4, 2, 1) if n % g == 0)
        return nn.GroupNorm(groups, n)
    return nn.InstanceNorm3d(n, affine=True)
