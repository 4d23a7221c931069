"""From the configuration of a model to its network."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from napari_volseg.config import ModelConfig
from napari_volseg.networks.pyramid import Pyramid
from napari_volseg.networks.resizing import Binned
from napari_volseg.networks.rsunet import RSUNet
from napari_volseg.networks.small_maps import guard_small_maps
from napari_volseg.networks.stages import StageOptions

__all__ = ["N_MAPS", "build_network"]

N_MAPS = 3
"""Mask, boundary, distance."""


def build_network(model: ModelConfig, in_channels: int, pyramid: Pyramid) -> nn.Module:
    """Return a network from (B, in_channels, Z, Y, X) to a tuple of logits.

    The tuple holds (B, 3, Z, Y, X) first; under deep supervision and while
    training, less exact logits follow, each less than the one before. Every edge
    of the input must be a multiple of `required_multiple`.
    """
    unbinned = replace(pyramid, binning=(1, 1, 1))
    network = _build_unbinned(model, in_channels, unbinned)
    guard_small_maps(network)
    if pyramid == unbinned:
        return network
    return Binned(network, pyramid.binning)


def _build_unbinned(
    model: ModelConfig, in_channels: int, pyramid: Pyramid
) -> nn.Module:
    if model.architecture == "rsunet":
        return RSUNet(
            in_channels,
            N_MAPS,
            model.filters,
            pyramid,
            StageOptions(model.rsunet_norm, model.rsunet_blocks, model.rsunet_dropout),
            skip=model.rsunet_skip,
            attention=model.rsunet_attention,
            deep_supervision=model.deep_supervision,
            checkpointing=model.gradient_checkpointing,
        )
    return _build_from_monai(model, in_channels, pyramid)


def _build_from_monai(
    model: ModelConfig, in_channels: int, pyramid: Pyramid
) -> nn.Module:
    # MONAI takes three seconds to import, so only those who use it pay.
    from napari_volseg.networks import convolutional, mednext, transformers

    build = {
        "monai_unet": convolutional.build_unet,
        "monai_basic_unetplusplus": convolutional.build_basic_unetplusplus,
        "monai_attention_unet": convolutional.build_attention_unet,
        "monai_segresnet": convolutional.build_segresnet,
        "monai_dynunet": convolutional.build_dynunet,
        "monai_swin_unetr": transformers.build_swin_unetr,
        "monai_unetr": transformers.build_unetr,
        "mednext": mednext.build_mednext,
    }[model.architecture]
    return build(model, in_channels, N_MAPS, pyramid)
