"""Residual symmetric U-Net for anisotropic volumes.

After Lee et al. 2017 (arXiv:1706.00120): residual blocks, skips that are added,
and upsampling that interpolates, so that no checkerboard can arise and a
constant stays a constant.

Shape suffixes: B batch, C channel, Z/Y/X space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from napari_volseg.geometry import Size
from napari_volseg.networks.pyramid import Pyramid

__all__ = ["RSUNet", "Upsample"]

NormName = Literal["batch", "group", "instance"]


class RSUNet(nn.Module):
    """Residual symmetric U-Net.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and of the logits.
    filters
        Feature maps of each level, finest first.
    pyramid
        Downsampling and kernels of the levels.
    norm
        Normalisation of feature maps.
    deep_supervision
        While training, also return the logits of the coarser levels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        pyramid: Pyramid,
        norm: NormName = "batch",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.multiple = pyramid.multiple
        widths = [in_channels, *filters]
        self.encoders = nn.ModuleList(
            _Stage(widths[i], widths[i + 1], pyramid.kernels[i], norm)
            for i in range(len(filters))
        )
        self.shrink = nn.ModuleList(
            nn.MaxPool3d(f) if max(f) > 1 else nn.Identity() for f in pyramid.factors
        )
        self.grow = nn.ModuleList(
            Upsample(filters[i + 1], filters[i], pyramid.factors[i])
            for i in range(len(filters) - 1)
        )
        self.decoders = nn.ModuleList(
            _Stage(filters[i], filters[i], pyramid.kernels[i], norm)
            for i in range(len(filters) - 1)
        )
        n_heads = len(filters) - 1 if deep_supervision else 1
        self.heads = nn.ModuleList(
            nn.Conv3d(filters[i], out_channels, 1) for i in range(n_heads)
        )
        self.apply(_initialise)

    def forward(self, image_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, C, Z, Y, X), finest level first."""
        features = self.encode(image_BCZYX)
        x = features[-1]
        logits: list[Tensor] = []
        for level in reversed(range(len(self.decoders))):
            x = self.decoders[level](self.grow[level](x) + features[level])
            if level == 0 or (self.training and level < len(self.heads)):
                logits.append(self.heads[level](x))
        return tuple(reversed(logits))

    def encode(self, image_BCZYX: Tensor) -> list[Tensor]:
        """Return the feature maps of every level on the way down, finest first."""
        features: list[Tensor] = []
        x = image_BCZYX
        for level, encoder in enumerate(self.encoders):
            x = encoder(x if level == 0 else self.shrink[level - 1](x))
            features.append(x)
        return features


class Upsample(nn.Module):
    """Linear interpolation that keeps a constant, after a 1×1×1 convolution.

    The convolution comes first, where there are fewer voxels; the two are
    linear and commute.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: Size) -> None:
        super().__init__()
        self.mix = nn.Conv3d(in_channels, out_channels, 1, bias=False)
        self.resize: nn.Module = nn.Identity()
        if max(factor) > 1:
            scale = tuple(float(f) for f in factor)
            self.resize = nn.Upsample(
                scale_factor=scale, mode="trilinear", align_corners=False
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, …) with every edge times its factor."""
        resized: Tensor = self.resize(self.mix(x))
        return resized


class _Stage(nn.Module):
    """A convolution and a residual block of two."""

    def __init__(self, n_in: int, n_out: int, kernel: Size, norm: NormName) -> None:
        super().__init__()
        self.enter = _conv_norm(n_in, n_out, kernel, norm)
        self.first = _conv_norm(n_out, n_out, kernel, norm)
        self.second = _conv_norm(n_out, n_out, kernel, norm)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.enter(x))
        y = self.second(self.act(self.first(x)))
        out: Tensor = self.act(x + y)
        return out


def _conv_norm(n_in: int, n_out: int, kernel: Size, norm: NormName) -> nn.Sequential:
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


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
