"""Residual symmetric U-Net for anisotropic volumes.

After Lee et al. 2017 (arXiv:1706.00120): residual blocks, skips that are added,
and upsampling that interpolates, so that no checkerboard can arise and a
constant stays a constant.

Shape suffixes: B batch, C channel, Z/Y/X space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_volseg.networks.pyramid import Pyramid
from napari_volseg.networks.recomputing import recomputed
from napari_volseg.networks.resizing import Upsample
from napari_volseg.networks.skips import (
    NestedSkips,
    SkipName,
    build_join,
    joined_channels,
)
from napari_volseg.networks.stages import Stage, StageOptions

__all__ = ["RSUNet"]


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
    options
        Normalisation, residual blocks and dropout of every level.
    skip
        How fine features are joined to coarse ones.
    attention
        Weigh the voxels of every encoder level.
    deep_supervision
        While training, also return the logits of the coarser levels.
    checkpointing
        While training, compute the inner maps of each level twice instead of
        keeping them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        pyramid: Pyramid,
        options: StageOptions | None = None,
        *,
        skip: SkipName = "add",
        attention: bool = False,
        deep_supervision: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        options = options or StageOptions()
        self.checkpointing = checkpointing
        self.multiple = pyramid.multiple
        n_up = len(filters) - 1
        widths = [in_channels, *filters]
        self.encoders = nn.ModuleList(
            Stage(widths[i], widths[i + 1], pyramid.kernels[i], options, attention)
            for i in range(len(filters))
        )
        self.shrink = nn.ModuleList(
            nn.MaxPool3d(f) if max(f) > 1 else nn.Identity() for f in pyramid.factors
        )
        self.nested = (
            NestedSkips(filters, pyramid, options.norm) if skip == "dense" else None
        )
        self.grow = nn.ModuleList(
            Upsample(filters[i + 1], filters[i], pyramid.factors[i])
            for i in range(n_up)
        )
        self.joins = nn.ModuleList(build_join(skip, n) for n in filters[:-1])
        n_skips = [n_up - i if skip == "dense" else 1 for i in range(n_up)]
        self.decoders = nn.ModuleList(
            Stage(
                joined_channels(skip, filters[i], n_skips[i]),
                filters[i],
                pyramid.kernels[i],
                options,
            )
            for i in range(n_up)
        )
        n_heads = n_up if deep_supervision else 1
        self.heads = nn.ModuleList(
            nn.Conv3d(filters[i], out_channels, 1) for i in range(n_heads)
        )
        self.apply(_initialise)

    def forward(self, image_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, C, Z, Y, X), finest level first."""
        features = self.encode(image_BCZYX)
        x = features[-1]
        skips = self.nested(features) if self.nested else [[f] for f in features[:-1]]
        logits = [] if self.decoders else [self.heads[0](x)]
        for level in reversed(range(len(self.decoders))):
            joined = self.joins[level](skips[level], self.grow[level](x))
            x = self._run(self.decoders[level], joined)
            if level == 0 or (self.training and level < len(self.heads)):
                logits.append(self.heads[level](x))
        return tuple(reversed(logits))

    def encode(self, image_BCZYX: Tensor) -> list[Tensor]:
        """Return the feature maps of every level on the way down, finest first."""
        features: list[Tensor] = []
        x = image_BCZYX
        for level, encoder in enumerate(self.encoders):
            x = self._run(encoder, x if level == 0 else self.shrink[level - 1](x))
            features.append(x)
        return features

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            return recomputed(stage, x)
        out: Tensor = stage(x)
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
