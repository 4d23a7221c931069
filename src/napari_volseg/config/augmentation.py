"""Settings of the random changes that patches go through."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from napari_volseg.config.fields import Fraction, Section

__all__ = ["AUGMENTATION_PRESETS", "AugmentationConfig"]

AugmentationPreset = Literal["none", "light", "standard", "strong", "em"]

AUGMENTATION_PRESETS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "none": {},
        "light": {"flip": 0.5, "rotate90": 0.5, "intensity": 0.3, "noise": 0.1},
        "standard": {
            "flip": 0.5,
            "rotate90": 0.5,
            "affine": 0.2,
            "intensity": 0.5,
            "noise": 0.2,
            "blur": 0.15,
            "missing_section": 0.1,
            "shifted_section": 0.1,
        },
        "strong": {
            "flip": 0.5,
            "rotate90": 0.5,
            "affine": 0.4,
            "elastic": 0.3,
            "intensity": 0.7,
            "brightness_gradient": 0.3,
            "noise": 0.4,
            "blur": 0.3,
            "missing_section": 0.1,
            "shifted_section": 0.1,
            "cut_noise": 0.2,
        },
        "em": {
            "flip": 0.5,
            "rotate90": 0.5,
            "affine": 0.2,
            "elastic": 0.2,
            "intensity": 0.5,
            "brightness_gradient": 0.2,
            "section_contrast": 0.4,
            "noise": 0.3,
            "blur": 0.15,
            "motion_blur": 0.15,
            "missing_section": 0.2,
            "shifted_section": 0.2,
            "slipped_section": 0.2,
            "defect": 0.2,
            "cut_noise": 0.1,
        },
    }
)
"""Probabilities by preset; what a preset does not name is off."""


class AugmentationConfig(Section):
    """Random changes that each patch goes through; a number is a probability."""

    preset: AugmentationPreset = "standard"
    """Probabilities of all changes that are not set here; em adds the faults of electron microscopy series."""
    flip: Fraction | None = None
    """Mirror along each axis."""
    rotate90: Fraction | None = None
    """Quarter turns in planes whose voxels and patch are square."""
    affine: Fraction | None = None
    """Turn within the slice by any angle and zoom by 0.8 to 1.25."""
    elastic: Fraction | None = None
    """Bend smoothly; within slices for deep voxels and targets made by slice."""
    intensity: Fraction | None = None
    """Brightness, contrast and gamma."""
    brightness_gradient: Fraction | None = None
    """Brightness that rises across the patch in a random direction."""
    section_contrast: Fraction | None = None
    """Brightness and contrast of each slice by itself."""
    noise: Fraction | None = None
    """Gaussian noise."""
    blur: Fraction | None = None
    """Gaussian blur within the slice."""
    motion_blur: Fraction | None = None
    """Blur of a few slices in one direction within the slice."""
    missing_section: Fraction | None = None
    """Blank one or two slices of the image, in patches of more than four."""
    shifted_section: Fraction | None = None
    """Shift image and labels of all slices after a random one; not below four slices."""
    slipped_section: Fraction | None = None
    """Shift image and labels of a single slice; not below four slices."""
    defect: Fraction | None = None
    """Stain a part of one or two slices of the image, dark or bright."""
    cut_noise: Fraction | None = None
    """Strong noise in a block of the image."""

    @property
    def chances(self) -> Mapping[str, float]:
        """The probability of each change: as set here, else that of the preset."""
        preset = AUGMENTATION_PRESETS[self.preset]
        return {
            name: preset.get(name, 0.0) if value is None else value
            for name, value in self
            if name != "preset"
        }
