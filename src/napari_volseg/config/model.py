"""Settings of the network and its loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_volseg.config.fields import Factor, PatchSize, PositiveInt, Section, Weight
from napari_volseg.config.loss import LossConfig

__all__ = ["ModelConfig"]


class ModelConfig(Section):
    """The network and its loss."""

    architecture: Literal["rsunet", "monai_unet", "mednext"] = "rsunet"
    """Residual symmetric U-Net for anisotropic volumes, MONAI's U-Net (fastest), or MedNeXt."""
    filters: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=7)] = (
        24,
        48,
        96,
        192,
    )
    """Feature maps at each level, finest first; their number is the depth."""
    rsunet_norm: Literal["batch", "group", "instance"] = "batch"
    """Normalisation of feature maps in RSUNet."""
    down_factors: tuple[Factor, ...] | None = None
    """Downsampling (z, y, x) below each level; by default chosen from the voxel size."""
    kernel_sizes: tuple[Factor, ...] | None = None
    """Convolution kernel (z, y, x) of each level; by default chosen from the voxel size."""
    mednext_size: Literal["S", "B", "M", "L"] = "S"
    """Size of MedNeXt: 5.6, 10.5, 17.6 or 61.8 million parameters."""
    deep_supervision: bool = False
    """Also train coarser outputs of the network, the finest counting most."""
    input_size: PatchSize | None = None
    """Must equal data.patch_size; accepted for PyTorch Connectomics files."""
    output_size: PatchSize | None = None
    """Must equal data.patch_size; accepted for PyTorch Connectomics files."""
    loss_weights: tuple[Weight, Weight, Weight] = (1.0, 1.0, 3.0)
    """Weight of the mask, boundary and distance losses."""
    loss_balance: Literal["fixed", "uncertainty"] = "fixed"
    """Weigh the channels by loss_weights alone, or also by learnt uncertainties (Kendall et al. 2018)."""
    loss: LossConfig = LossConfig()
