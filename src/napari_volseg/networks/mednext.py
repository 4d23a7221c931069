"""MedNeXt with the downsampling of a `Pyramid`.

MONAI takes three seconds to import, so only those who use it import this module.
"""

from __future__ import annotations

from typing import Any

from monai.networks.nets.mednext import create_mednext
from torch import Tensor, nn
from torch.nn import functional

from napari_volseg.config import ModelConfig
from napari_volseg.geometry import Size
from napari_volseg.networks.outputs import FinestFirst
from napari_volseg.networks.pyramid import Pyramid
from napari_volseg.networks.resizing import Upsample

__all__ = ["build_mednext"]

_KERNEL = 3


def build_mednext(
    model: ModelConfig, in_channels: int, out_channels: int, pyramid: Pyramid
) -> nn.Module:
    """Return MedNeXt S, B, M or L (Roy et al. 2023, arXiv:2303.09975)."""
    network = create_mednext(
        variant=model.mednext_size,
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=_KERNEL,
        deep_supervision=model.deep_supervision,
    )
    linear = model.monai_upsample == "linear"
    n_up = len(network.up_blocks)
    for level, factor in enumerate(pyramid.factors):
        down: Any = network.down_blocks[level]
        down.conv1.stride = down.res_conv.stride = factor
        up = network.up_blocks[n_up - 1 - level]
        network.up_blocks[n_up - 1 - level] = _UpBlock(up, factor, linear)
    return FinestFirst(network)


class _UpBlock(nn.Module):
    """MedNeXt's upsampling block by any factor.

    With `linear`, its two transposed convolutions are replaced by convolutions and
    interpolation; without, the missing first voxels are zeros as in MONAI.
    """

    def __init__(self, block: Any, factor: Size, linear: bool) -> None:
        super().__init__()
        wide, n_out = block.conv1.in_channels, block.res_conv.out_channels
        if linear:
            kernel = (_KERNEL,) * 3
            block.conv1 = Upsample(wide, wide, factor, kernel, groups=wide, bias=True)
            block.res_conv = Upsample(wide, n_out, factor, bias=True)
        else:
            block.conv1.stride = block.res_conv.stride = factor
        z, y, x = (0 if linear else f - 1 for f in factor)
        self.block = block
        self._missing = (x, 0, y, 0, z, 0)

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        y = block.conv3(block.act(block.conv2(block.norm(block.conv1(x)))))
        out: Tensor = y + block.res_conv(x)
        return functional.pad(out, self._missing)
