"""Networks from images to the logits of mask, boundary and distance."""

from napari_volseg.networks.build import N_MAPS, build_network
from napari_volseg.networks.pyramid import Pyramid, plan_pyramid
from napari_volseg.networks.requirements import (
    check_model,
    fit_patch,
    fit_window,
    nearest_patch,
    required_multiple,
)
from napari_volseg.networks.resizing import Resampled
from napari_volseg.networks.rsunet import RSUNet
from napari_volseg.networks.widths import level_widths, suited_filters

__all__ = [
    "N_MAPS",
    "Pyramid",
    "RSUNet",
    "Resampled",
    "build_network",
    "check_model",
    "fit_patch",
    "fit_window",
    "level_widths",
    "nearest_patch",
    "plan_pyramid",
    "required_multiple",
    "suited_filters",
]
