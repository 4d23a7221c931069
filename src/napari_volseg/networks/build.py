"""From the configuration of a model to its network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from napari_volseg.config import ModelConfig
from napari_volseg.networks.pyramid import Pyramid
from napari_volseg.networks.rsunet import RSUNet

__all__ = ["N_MAPS", "build_network", "required_multiple"]

N_MAPS = 3
"""Mask, boundary, distance."""

_MEDNEXT_LEVELS = 4
"""Times that MedNeXt halves its input."""


def build_network(model: ModelConfig, in_channels: int, pyramid: Pyramid) -> nn.Module:
    """Return a network from (B, in_channels, Z, Y, X) to a tuple of logits.

    The tuple holds (B, 3, Z, Y, X) first; under deep supervision and while
    training, coarser logits follow. Every edge of the input must be a multiple
    of `required_multiple`.
    """
    if model.architecture == "rsunet":
        return RSUNet(
            in_channels,
            N_MAPS,
            model.filters,
            pyramid,
            model.rsunet_norm,
            model.deep_supervision,
        )
    if model.architecture == "monai_unet":
        return _TupleOutput(_build_unet(model, in_channels, pyramid))
    return _TupleOutput(_build_mednext(model, in_channels))


def required_multiple(model: ModelConfig, pyramid: Pyramid) -> tuple[int, int, int]:
    """Return what each edge (z, y, x) of the network's input must divide by."""
    if model.architecture == "mednext":
        n = 2**_MEDNEXT_LEVELS
        return n, n, n
    return pyramid.multiple


class _TupleOutput(nn.Module):
    """Gives MONAI's networks the output form of ours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BCZYX: Tensor) -> tuple[Tensor, ...]:
        out: Any = self.network(image_BCZYX)
        return tuple(out) if isinstance(out, (list, tuple)) else (out,)


def _build_unet(model: ModelConfig, in_channels: int, pyramid: Pyramid) -> nn.Module:
    # MONAI takes three seconds to import, so only those who use it pay.
    from monai.networks.nets.unet import UNet

    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=N_MAPS,
        channels=model.filters,
        strides=pyramid.factors,  # type: ignore[arg-type]  # MONAI takes one per axis
        num_res_units=2,
        norm="batch",
    )
    return network


def _build_mednext(model: ModelConfig, in_channels: int) -> nn.Module:
    from monai.networks.nets.mednext import create_mednext

    network: nn.Module = create_mednext(
        variant=model.mednext_size,
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=N_MAPS,
        kernel_size=3,
        deep_supervision=model.deep_supervision,
    )
    return network
