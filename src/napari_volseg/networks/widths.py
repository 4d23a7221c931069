"""How many feature maps a network has at its levels."""

from __future__ import annotations

from collections.abc import Sequence

from napari_volseg.config import ModelConfig

__all__ = ["level_widths", "suited_filters"]

_DOUBLING = ("monai_segresnet", "monai_swin_unetr", "monai_unetr")
_FEWEST_LEVELS = {
    "monai_unet": 2,
    "monai_attention_unet": 2,
    "monai_segresnet": 2,
    "monai_dynunet": 3,
}
_SWIN_STEP = 12
"""SwinUNETR splits its feature maps among 3 heads and more, each of even width."""
_MEDNEXT_WIDTH = 32


def level_widths(model: ModelConfig) -> tuple[int, ...]:
    """Return the feature maps of every level of a network, finest first."""
    first = model.filters[0]
    if model.architecture == "mednext":
        return tuple(_MEDNEXT_WIDTH * 2**level for level in range(model.depth))
    if model.architecture == "monai_swin_unetr":
        return (first, *(first * 2**level for level in range(model.depth - 1)))
    if model.architecture == "monai_unetr":
        convolved = (first * 2**level for level in range(model.depth - 1))
        return (*convolved, model.unetr_hidden_size)
    return model.filters


def suited_filters(model: ModelConfig) -> tuple[int, ...]:
    """Return ``model.filters``, or the nearest that the network can have."""
    name, filters = model.architecture, model.filters
    fewest = _FEWEST_LEVELS.get(name, 1)
    if name == "rsunet" and model.deep_supervision:
        fewest = 3
    if len(filters) < fewest:
        filters = _with_length(filters, fewest)
    if name == "monai_basic_unetplusplus":
        # It halves the feature maps on the way up.
        filters = tuple(max(2, f) for f in _with_length(filters, model.depth))
    if name in _DOUBLING:
        step = _SWIN_STEP if name == "monai_swin_unetr" else 1
        first = max(1, round(filters[0] / step)) * step
        filters = tuple(first * 2**level for level in range(len(filters)))
    return filters


def _with_length(filters: Sequence[int], n: int) -> tuple[int, ...]:
    """Cut filters to n levels, or double the last until there are n."""
    longer = (filters[-1] * 2 ** (i + 1) for i in range(n - len(filters)))
    return (*filters[:n], *longer)
