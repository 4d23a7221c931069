"""Settings of the loss."""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from napari_volseg.config.fields import Section, Weight

__all__ = ["LOSS_TERMS", "LossConfig"]

LOSS_TERMS = (
    "bce",
    "dice",
    "focal",
    "tversky",
    "mse",
    "smooth_l1",
    "rmse",
    "ssim",
    "perceptual",
)
"""What a channel's loss can be made of; see `losses.terms`."""


def _check_terms(terms: dict[str, float]) -> dict[str, float]:
    for name in terms:
        if name not in LOSS_TERMS:
            near = difflib.get_close_matches(name, LOSS_TERMS, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ValueError(
                f"there is no loss term '{name}': {hint}terms are "
                f"{', '.join(LOSS_TERMS)}"
            )
    if not any(terms.values()):
        raise ValueError(
            "a channel needs a loss term with a weight above 0, for instance "
            "{mse: 1.0}; to leave a channel out, set its number in "
            "model.loss_weights to 0"
        )
    return terms


Terms = Annotated[dict[str, Weight], AfterValidator(_check_terms)]


class LossConfig(Section):
    """What the loss of each channel is made of: terms and their weights."""

    mask: Terms = Field(default_factory=lambda: {"bce": 1.0, "dice": 1.0})
    """Terms of the mask's loss and their weights; any of bce, dice, focal, tversky, mse, smooth_l1, rmse, ssim, perceptual."""
    boundary: Terms = Field(default_factory=lambda: {"bce": 1.0, "dice": 1.0})
    """Terms of the boundary's loss and their weights."""
    distance: Terms = Field(default_factory=lambda: {"smooth_l1": 1.0})
    """Terms of the distance's loss and their weights."""
    focal_gamma: Annotated[float, Field(ge=0, le=5)] = 2.0
    """focal: how much less a voxel counts that is nearly right; 0 counts all alike."""
    tversky_alpha: Annotated[float, Field(ge=0, le=1)] = 0.3
    """tversky: weight of voxels wrongly predicted."""
    tversky_beta: Annotated[float, Field(ge=0, le=1)] = 0.7
    """tversky: weight of voxels missed; above tversky_alpha it favours finding them."""
    ssim_window: Annotated[int, Field(ge=3, le=15)] = 7
    """ssim: edge in voxels of the window compared, odd; shorter along axes of fewer voxels."""
    scales: Annotated[int, Field(ge=1, le=4)] = 1
    """Also apply the terms to maps averaged over 2, 4, 8 voxels; 1 applies them to the maps alone."""
    perceptual_model: str | None = None
    """perceptual: absolute path of an earlier model.safetensors of RSUNet, whose features are compared."""

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.ssim_window % 2 == 0:
            raise ValueError(
                f"ssim_window is {self.ssim_window} and must be odd: use "
                f"{self.ssim_window - 1} or {self.ssim_window + 1}"
            )
        if self.tversky_alpha + self.tversky_beta == 0:
            raise ValueError("tversky_alpha and tversky_beta cannot both be 0")
        if self.uses("perceptual") and not self.perceptual_model:
            raise ValueError(
                "the loss term 'perceptual' needs model.loss.perceptual_model, the "
                "path of an earlier model.safetensors"
            )
        return self

    def uses(self, term: str) -> bool:
        """Return whether a channel has this term."""
        channels = (self.mask, self.boundary, self.distance)
        return any(terms.get(term, 0) > 0 for terms in channels)
