"""What a network needs of its settings and of the patch, checked before the start.

Nothing here builds a network. Each refusal names the setting and the nearest value
that works.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

from napari_volseg.config import ModelConfig
from napari_volseg.errors import DataError
from napari_volseg.geometry import Size
from napari_volseg.networks.pyramid import Pyramid, plan_pyramid
from napari_volseg.networks.widths import suited_filters

__all__ = [
    "check_model",
    "fit_patch",
    "fit_window",
    "nearest_patch",
    "required_multiple",
]

_COARSER_OUTPUTS = ("rsunet", "mednext", "monai_dynunet", "monai_basic_unetplusplus")
_CHECKPOINTING = ("rsunet", "monai_swin_unetr")
_KERNEL_OF_EACH_LEVEL = ("rsunet", "monai_dynunet")
_NORM_OVER_BATCH = ("monai_unet", "monai_attention_unet")
_RSUNET_ONLY = ("rsunet_skip", "rsunet_attention", "rsunet_dropout", "rsunet_blocks")


def check_model(model: ModelConfig) -> None:
    """Refuse settings of a network that do not go together.

    Raises
    ------
    DataError
        Naming the setting and the nearest value that works.
    """
    _check_options(model)
    _check_filters(model)
    _check_heads(model)


def fit_patch(
    model: ModelConfig,
    voxel_size: Sequence[float],
    patch_size: Size,
    largest_ZYX: Sequence[int],
    batch_size: int,
) -> tuple[Size, Pyramid]:
    """Settle the patch and the pyramid of a network for volumes of a size.

    A patch larger than the volumes is cut to the largest of them, then padded to
    what the network needs.

    Parameters
    ----------
    voxel_size
        Edge lengths (z, y, x) in nm.
    patch_size
        What the configuration asks for, in voxels.
    largest_ZYX
        Largest edges of all volumes, in voxels.
    batch_size
        Patches that a batch normalisation sees at once.

    Raises
    ------
    DataError
        If the network cannot have these levels or this patch; it names the setting
        and the nearest value that works.
    """
    z, y, x = (min(p, int(n)) for p, n in zip(patch_size, largest_ZYX, strict=True))
    wanted = (z, y, x)
    pyramid = plan_pyramid(model, voxel_size, wanted)
    _check_pyramid(model, pyramid)
    fitted = _round_up(wanted, pyramid.multiple)
    if any(w == p != f for w, p, f in zip(wanted, patch_size, fitted, strict=True)):
        raise DataError(
            f"data.patch_size {list(patch_size)} does not divide by "
            f"{list(pyramid.multiple)}, as the {model.depth} levels of "
            f"{model.architecture} need: set it to "
            f"{list(nearest_patch(model, voxel_size, patch_size))}"
        )
    _check_bottom(model, pyramid, fitted, batch_size)
    return fitted, pyramid


def nearest_patch(
    model: ModelConfig, voxel_size: Sequence[float], patch_size: Size
) -> Size:
    """Return the patch, each edge lengthened to what the network can take."""
    pyramid = plan_pyramid(model, voxel_size, patch_size)
    return _round_up(patch_size, pyramid.multiple)


def fit_window(model: ModelConfig, pyramid: Pyramid, wanted: Sequence[int]) -> Size:
    """Return the smallest window not below `wanted` that the network can predict."""
    z, y, x = _round_up(wanted, pyramid.multiple)
    if not _sees_batch(model) and (z, y, x) == pyramid.multiple:
        # One voxel at the deepest level has no variance to normalise by.
        return z, y, 2 * x
    return z, y, x


def required_multiple(model: ModelConfig, pyramid: Pyramid) -> Size:
    """Return what each edge (z, y, x) of the network's input must divide by."""
    return pyramid.multiple


def _check_pyramid(model: ModelConfig, pyramid: Pyramid) -> None:
    kernels = [list(kernel) for kernel in pyramid.kernels]
    if model.kernel_sizes and model.architecture not in _KERNEL_OF_EACH_LEVEL:
        raise DataError(
            f"model.kernel_sizes needs {_one_of(_KERNEL_OF_EACH_LEVEL)}: "
            f"{model.architecture} has the same kernel at all levels; leave it unset"
        )
    odd = [[k + 1 - k % 2 for k in kernel] for kernel in kernels]
    if odd != kernels:
        raise DataError(
            "model.kernel_sizes must be odd, or feature maps would change their size: "
            f"set it to {odd}"
        )
    if model.architecture == "monai_dynunet":
        _check_strides(pyramid)


def _check_bottom(
    model: ModelConfig, pyramid: Pyramid, patch_size: Size, batch_size: int
) -> None:
    """Refuse a patch that leaves nothing to normalise at the deepest level."""
    multiple = pyramid.multiple
    bottom = prod(n // m for n, m in zip(patch_size, multiple, strict=True))
    if bottom * (batch_size if _sees_batch(model) else 1) < 2:
        raise DataError(
            f"patches of {_by(patch_size)} voxels shrink to a single voxel at the "
            "deepest level: use fewer model.filters or smaller model.down_factors, or "
            f"set data.patch_size to at least {[2 * m for m in multiple]}"
        )


def _sees_batch(model: ModelConfig) -> bool:
    """Return whether feature maps are normalised over the whole batch."""
    if model.architecture == "rsunet":
        return model.rsunet_norm == "batch"
    return model.architecture in _NORM_OVER_BATCH


def _check_options(model: ModelConfig) -> None:
    name = model.architecture
    if model.deep_supervision and name not in _COARSER_OUTPUTS:
        raise DataError(
            f"model.deep_supervision needs {_one_of(_COARSER_OUTPUTS)}: {name} has no "
            "coarser outputs; set it to false, or take one of those"
        )
    if model.gradient_checkpointing and name not in _CHECKPOINTING:
        raise DataError(
            f"model.gradient_checkpointing needs {_one_of(_CHECKPOINTING)}: set it to "
            f"false for {name}, and halve system.training.batch_size to save memory"
        )
    if name == "rsunet":
        return
    for key in _RSUNET_ONLY:
        default = ModelConfig.model_fields[key].default
        if getattr(model, key) != default:
            raise DataError(
                f"model.{key} concerns rsunet only: set it to "
                f"{str(default).lower()} for {name}, or model.architecture to rsunet"
            )


def _check_filters(model: ModelConfig) -> None:
    name, wanted = model.architecture, suited_filters(model)
    if model.filters == wanted:
        return
    reason = {
        "rsunet": "rsunet with deep supervision needs at least 3 levels",
        "monai_basic_unetplusplus": f"{name} has {model.depth} levels of at least 2",
        "monai_segresnet": f"{name} doubles its feature maps at each level",
        "monai_swin_unetr": f"{name} doubles its feature maps, from a multiple of 12",
        "monai_unetr": f"{name} doubles its feature maps at each level",
    }.get(name, f"{name} needs at least {len(wanted)} levels")
    raise DataError(f"{reason}: set model.filters to {list(wanted)}")


def _check_heads(model: ModelConfig) -> None:
    width, heads = model.unetr_hidden_size, model.unetr_num_heads
    if model.architecture == "monai_unetr" and width % heads:
        raise DataError(
            f"model.unetr_hidden_size {width} is not a multiple of "
            f"model.unetr_num_heads {heads}: set it to "
            f"{max(1, round(width / heads)) * heads}"
        )


def _check_strides(pyramid: Pyramid) -> None:
    """DynUNet pads by (kernel - stride + 1) / 2, which must not be negative."""
    possible = [
        [min(f, k + 1) for f, k in zip(factor, kernel, strict=True)]
        for factor, kernel in zip(pyramid.factors, pyramid.kernels[1:], strict=True)
    ]
    if possible != [list(factor) for factor in pyramid.factors]:
        raise DataError(
            "monai_dynunet cannot shrink an axis by more than its kernel plus one: "
            f"set model.down_factors to {possible}, or larger model.kernel_sizes"
        )


def _round_up(size: Sequence[int], multiple: Sequence[int]) -> Size:
    z, y, x = (ceil(n / m) * m for n, m in zip(size, multiple, strict=True))
    return z, y, x


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
