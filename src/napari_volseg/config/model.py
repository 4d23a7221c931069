"""Settings of the network and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from napari_volseg.config.fields import Factor, PatchSize, PositiveInt, Section, Weight
from napari_volseg.config.loss import LossConfig

__all__ = ["Architecture", "ModelConfig"]

Architecture = Literal[
    "rsunet",
    "monai_unet",
    "monai_basic_unetplusplus",
    "monai_attention_unet",
    "monai_segresnet",
    "monai_dynunet",
    "monai_swin_unetr",
    "monai_unetr",
    "mednext",
]

_ALIASES = {
    "unet": "monai_unet",
    "basic_unetplusplus": "monai_basic_unetplusplus",
    "attention_unet": "monai_attention_unet",
    "segresnet": "monai_segresnet",
    "dynunet": "monai_dynunet",
    "nnunet": "monai_dynunet",
    "swin_unetr": "monai_swin_unetr",
    "unetr": "monai_unetr",
}
"""Other names of the same networks; nnunet and rsunet_iso as in PyTorch Connectomics."""

_NOT_BUILT = {
    "monai_basic_unet3d": "monai_unet, or monai_basic_unetplusplus with dense skips",
    "mednext_custom": "mednext with model.mednext_size",
}
"""Networks of PyTorch Connectomics that are not built here, and what is nearest."""

_FIXED_DEPTH = {
    "monai_basic_unetplusplus": 5,
    "monai_swin_unetr": 6,
    "monai_unetr": 5,
    "mednext": 5,
}
"""Levels of the networks whose depth does not follow from the filters."""


def _known_name(value: object) -> object:
    if isinstance(value, str) and value in _NOT_BUILT:
        raise ValueError(f"{value} is not built here: take {_NOT_BUILT[value]}")
    return _ALIASES.get(value, value) if isinstance(value, str) else value


def _check_weights(weights: tuple[float, ...]) -> tuple[float, ...]:
    if not any(weights):
        raise ValueError("one of the three maps needs a weight above 0 to be learnt")
    return weights


class ModelConfig(Section):
    """The network and its loss."""

    architecture: Annotated[Architecture, BeforeValidator(_known_name)] = "rsunet"
    """Residual symmetric U-Net for anisotropic volumes, a network of MONAI (its U-Net is the fastest), or MedNeXt."""
    filters: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=12)] = (
        24,
        48,
        96,
        192,
    )
    """Feature maps at each level, finest first; their number is the depth. MedNeXt has its own; SegResNet and the transformers double the first."""
    rsunet_norm: Literal["batch", "group", "instance"] = "batch"
    """Normalisation of feature maps in RSUNet."""
    rsunet_blocks: Annotated[int, Field(ge=1, le=3)] = 1
    """Residual blocks at each level of RSUNet."""
    rsunet_skip: Literal["add", "concat", "attention", "dense"] = "add"
    """How RSUNet joins fine features to coarse ones: added, concatenated, gated by attention, or through nested dense blocks as in UNet++."""
    rsunet_attention: bool = False
    """Weigh the voxels of every encoder level of RSUNet by spatial attention."""
    rsunet_dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of whole feature maps that RSUNet drops in each residual block while training."""
    gradient_checkpointing: bool = False
    """Keep fewer feature maps and compute them again for the gradient: less memory, slower steps, same result; RSUNet and SwinUNETR."""
    binning: Factor = (1, 1, 1)
    """Voxels (z, y, x) that are averaged into one before the network, whose maps are interpolated back: large objects fit into view and steps are fast, but what is finer than that is lost."""
    down_factors: tuple[Factor, ...] | None = None
    """Downsampling (z, y, x) below each level; by default chosen from the voxel size."""
    kernel_sizes: tuple[Factor, ...] | None = None
    """Convolution kernel (z, y, x) of each level, in RSUNet and DynUNet; by default chosen from the voxel size."""
    monai_upsample: Literal["linear", "transposed"] = "linear"
    """Upsampling in MONAI's networks and MedNeXt: interpolation, which keeps a constant, or the transposed convolutions of the originals."""
    mednext_size: Literal["S", "B", "M", "L"] = "S"
    """Size of MedNeXt: 5.6, 10.5, 17.6 or 61.8 million parameters."""
    unetr_hidden_size: Annotated[int, Field(ge=1)] = 768
    """Width of the transformer of UNETR; a multiple of unetr_num_heads."""
    unetr_num_heads: Annotated[int, Field(ge=1)] = 12
    """Attention heads of the transformer of UNETR."""
    deep_supervision: bool = False
    """Also train coarser outputs of the network, the finest counting most."""
    input_size: PatchSize | None = None
    """Must equal data.patch_size; accepted for PyTorch Connectomics files."""
    output_size: PatchSize | None = None
    """Must equal data.patch_size; accepted for PyTorch Connectomics files."""
    initial_weights: str | None = None
    """Model file whose weights a new training begins with; its network must be the same. Without it, training begins from random weights."""
    loss_weights: Annotated[
        tuple[Weight, Weight, Weight], AfterValidator(_check_weights)
    ] = (1.0, 1.0, 3.0)
    """Weight of the mask, boundary and distance losses."""
    loss_balance: Literal["fixed", "uncertainty"] = "fixed"
    """Weigh the channels by loss_weights alone, or also by learnt uncertainties (Kendall et al. 2018)."""
    loss: LossConfig = LossConfig()

    @property
    def depth(self) -> int:
        """Levels of the network, the finest and the coarsest included."""
        return _FIXED_DEPTH.get(self.architecture, len(self.filters))

    @model_validator(mode="before")
    @classmethod
    def _shrink_evenly(cls, tree: Any) -> Any:
        """Read rsunet_iso, the RSUNet that halves all axes at every level."""
        if not isinstance(tree, Mapping) or tree.get("architecture") != "rsunet_iso":
            return tree
        filters = tree.get("filters") or cls.model_fields["filters"].default
        factors = tree.get("down_factors") or ((2, 2, 2),) * (len(filters) - 1)
        return {**tree, "architecture": "rsunet", "down_factors": factors}
