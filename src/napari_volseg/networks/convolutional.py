"""MONAI's convolutional U-Nets, with the downsampling of a `Pyramid`.

MONAI takes three seconds to import, so only those who use it import this module.
"""

from __future__ import annotations

from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import nn

from napari_volseg.config import ModelConfig
from napari_volseg.geometry import Size
from napari_volseg.networks.outputs import FinestFirst, FinestLast, WithHeads
from napari_volseg.networks.pyramid import Pyramid
from napari_volseg.networks.resizing import replace_transposed, resize_by

__all__ = [
    "build_attention_unet",
    "build_basic_unetplusplus",
    "build_dynunet",
    "build_segresnet",
    "build_unet",
]


def build_unet(
    model: ModelConfig, in_channels: int, out_channels: int, pyramid: Pyramid
) -> nn.Module:
    """Return MONAI's U-Net with residual units (Kerfoot et al. 2019)."""
    kernel = _largest_kernel(pyramid)
    network = UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=model.filters,
        strides=pyramid.factors,  # type: ignore[arg-type]  # MONAI takes one per axis
        kernel_size=kernel,
        up_kernel_size=kernel,
        num_res_units=2,
        norm="batch",
    )
    if model.monai_upsample == "linear":
        replace_transposed(network)
    return FinestFirst(network)


def build_attention_unet(
    model: ModelConfig, in_channels: int, out_channels: int, pyramid: Pyramid
) -> nn.Module:
    """Return Attention U-Net (Oktay et al. 2018, arXiv:1804.03999)."""
    kernel = _largest_kernel(pyramid)
    network = AttentionUnet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=model.filters,
        strides=pyramid.factors,  # type: ignore[arg-type]  # MONAI takes one per axis
        kernel_size=kernel,
        up_kernel_size=kernel,
    )
    if model.monai_upsample == "linear":
        replace_transposed(network)
    return FinestFirst(network)


def build_dynunet(
    model: ModelConfig, in_channels: int, out_channels: int, pyramid: Pyramid
) -> nn.Module:
    """Return the network of nnU-Net (Isensee et al. 2021)."""
    network = DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=pyramid.kernels,
        strides=((1, 1, 1), *pyramid.factors),
        upsample_kernel_size=pyramid.factors,
        filters=model.filters,
        deep_supervision=model.deep_supervision,
        deep_supr_num=max(1, len(model.filters) - 2),
    )
    if model.monai_upsample == "linear":
        replace_transposed(network)
    coarser = network.heads if model.deep_supervision else []
    return WithHeads(network.skip_layers, network.output_block, coarser)


def build_basic_unetplusplus(
    model: ModelConfig, in_channels: int, out_channels: int, pyramid: Pyramid
) -> nn.Module:
    """Return U-Net++ with nested skips (Zhou et al. 2020, arXiv:1912.05074).

    Under deep supervision all its outputs have the full size; the first is the one
    that has seen the coarsest level.
    """
    network = BasicUNetPlusPlus(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        features=(*model.filters, model.filters[0]),
        deep_supervision=model.deep_supervision,
    )
    linear = model.monai_upsample == "linear"
    n_levels = len(model.filters)
    for level, factor in enumerate(pyramid.factors):
        pool = getattr(network, f"conv_{level + 1}_0").max_pooling
        pool.kernel_size = pool.stride = factor
        for column in range(1, n_levels - level):
            up = getattr(network, f"upcat_{level}_{column}").upsample
            up.deconv = resize_by(up.deconv, factor, linear=linear)
    if not model.deep_supervision:
        for column in range(1, n_levels - 1):
            setattr(network, f"final_conv_0_{column}", nn.Identity())
    return FinestLast(network)


def build_segresnet(
    model: ModelConfig, in_channels: int, out_channels: int, pyramid: Pyramid
) -> nn.Module:
    """Return SegResNet (Myronenko 2018, arXiv:1810.11654), without its autoencoder."""
    first, n_levels = model.filters[0], len(model.filters)
    linear = model.monai_upsample == "linear"
    network = SegResNet(
        spatial_dims=3,
        init_filters=first,
        in_channels=in_channels,
        out_channels=out_channels,
        norm=("GROUP", {"num_groups": next(g for g in (8, 4, 2, 1) if first % g == 0)}),
        blocks_down=(1, *[2] * max(0, n_levels - 2), 4)[:n_levels],
        blocks_up=(1,) * (n_levels - 1),
        upsample_mode="deconv",
    )
    for level, factor in enumerate(pyramid.factors):
        network.down_layers[level + 1][0].conv.stride = factor
        up = network.up_samples[n_levels - 2 - level][1]
        up.deconv = resize_by(up.deconv, factor, linear=linear)
    return FinestFirst(network)


def _largest_kernel(pyramid: Pyramid) -> Size:
    """Return the one kernel of a network that has the same at all levels."""
    z, y, x = (max(k[axis] for k in pyramid.kernels) for axis in range(3))
    return z, y, x
