"""MONAI's networks with a transformer encoder, for any anisotropy.

MONAI halves all axes at every level and fixes the size of the input; here both
follow the `Pyramid`, so that flat volumes and single slices fit.

MONAI takes three seconds to import, so only those who use it import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import log2, prod
from typing import Any

import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unetr import UNETR
from torch import Tensor, nn
from torch.nn import functional

from napari_volseg.config import ModelConfig
from napari_volseg.geometry import Size
from napari_volseg.networks.outputs import FinestFirst
from napari_volseg.networks.pyramid import Pyramid
from napari_volseg.networks.resizing import resize_by

__all__ = ["build_swin_unetr", "build_unetr"]

_WINDOW = 8
"""Edge in tokens of SwinUNETR's attention windows. MONAI's 7 fits no map whose edges
were halved; it fills the rest with zeros, which cost time and blur the faces."""

_POSITIONS = 8
"""Edge of the grid of learnt positions, which is resized to that of the tokens."""


def build_swin_unetr(
    model: ModelConfig, in_channels: int, out_channels: int, pyramid: Pyramid
) -> nn.Module:
    """Return SwinUNETR (Hatamizadeh et al. 2022, arXiv:2201.01266)."""
    width = model.filters[0]
    network = _SwinUNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=pyramid.factors[0],  # type: ignore[arg-type]  # one per axis
        feature_size=width,
        window_size=_WINDOW,
        use_checkpoint=model.gradient_checkpointing,
        downsample=_merging(width, pyramid.factors[1:]),  # type: ignore[arg-type]
        spatial_dims=3,
    )
    linear = model.monai_upsample == "linear"
    for level, factor in enumerate(pyramid.factors):
        up = getattr(network, f"decoder{level + 1}").transp_conv
        up.conv = resize_by(up.conv, factor, linear=linear)
    return FinestFirst(network)


class _SwinUNETR(SwinUNETR):
    def _check_input_size(self, spatial_shape: Sequence[int]) -> None:
        """Accept what the pyramid accepts; MONAI asks for multiples of 32."""


def _merging(width: int, factors: Sequence[Size]) -> Callable[..., nn.Module]:
    """Return what makes the merging of a level, which MONAI tells by its width."""

    def make(dim: int, norm_layer: type[nn.Module], spatial_dims: int) -> nn.Module:
        return _Merging(dim, norm_layer, factors[round(log2(dim / width))])

    return make


class _Merging(nn.Module):
    """Merge the tokens of (z, y, x) neighbours into one of twice the width."""

    def __init__(self, dim: int, norm_layer: Any, factor: Size) -> None:
        super().__init__()
        self.factor = factor
        self.norm = norm_layer(prod(factor) * dim)
        self.reduction = nn.Linear(prod(factor) * dim, 2 * dim, bias=False)

    def forward(self, x_BZYXC: Tensor) -> Tensor:
        z, y, x = self.factor
        parts = [
            x_BZYXC[:, k::z, j::y, i::x]
            for k, j, i in product(range(z), range(y), range(x))
        ]
        merged: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
        return merged


def build_unetr(
    model: ModelConfig, in_channels: int, out_channels: int, pyramid: Pyramid
) -> nn.Module:
    """Return UNETR (Hatamizadeh et al. 2022, arXiv:2103.10504)."""
    network = _UNETR(
        pyramid.multiple,
        in_channels=in_channels,
        out_channels=out_channels,
        img_size=16,
        feature_size=model.filters[0],
        hidden_size=model.unetr_hidden_size,
        mlp_dim=4 * model.unetr_hidden_size,
        num_heads=model.unetr_num_heads,
    )
    linear = model.monai_upsample == "linear"
    factors = pyramid.factors
    for level, factor in enumerate(factors):
        up = getattr(network, f"decoder{level + 2}").transp_conv
        up.conv = resize_by(up.conv, factor, linear=linear)
    for level in (1, 2, 3):
        encoder = getattr(network, f"encoder{level + 1}")
        ups = [encoder.transp_conv_init, *(block[0] for block in encoder.blocks)]
        for up, factor in zip(ups, reversed(factors[level:]), strict=True):
            up.conv = resize_by(up.conv, factor, linear=linear)
    return FinestFirst(network)


class _UNETR(UNETR):
    """UNETR whose tokens are boxes of any size, on a grid of any shape."""

    def __init__(self, token_size: Size, in_channels: int, **options: Any) -> None:
        super().__init__(in_channels, **options)
        self._token_size = token_size
        transformer: Any = self.vit
        transformer.patch_embedding = _Tokens(in_channels, self.hidden_size, token_size)
        for block in transformer.blocks:
            # MONAI makes it for cross-attention, which is not used here.
            block.norm_cross_attn = nn.Identity()

    def forward(self, image_BCZYX: Tensor) -> Tensor:
        grid = [
            n // t for n, t in zip(image_BCZYX.shape[2:], self._token_size, strict=True)
        ]
        self.proj_view_shape = [*grid, self.hidden_size]
        logits: Tensor = super().forward(image_BCZYX)  # type: ignore[no-untyped-call]
        return logits


class _Tokens(nn.Module):
    """Embed boxes of voxels, and add where they lie.

    Positions are learnt on one grid and interpolated to that of the image (as
    Dosovitskiy et al. 2021, arXiv:2010.11929, do for other image sizes).
    """

    def __init__(self, in_channels: int, width: int, token_size: Size) -> None:
        super().__init__()
        self.embed = nn.Conv3d(in_channels, width, token_size, stride=token_size)
        self.positions = nn.Parameter(torch.empty(1, width, *(_POSITIONS,) * 3))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, image_BCZYX: Tensor) -> Tensor:
        tokens = self.embed(image_BCZYX)
        where = functional.interpolate(
            self.positions, tokens.shape[2:], mode="trilinear", align_corners=False
        )
        flat: Tensor = (tokens + where).flatten(2).transpose(1, 2)
        return flat
