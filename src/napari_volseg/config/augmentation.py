"""Settings of the random changes that patches go through."""

from __future__ import annotations

from napari_volseg.config.fields import Fraction, Section

__all__ = ["AugmentationConfig"]


class AugmentationConfig(Section):
    """Random changes that each patch goes through; a number is a probability."""

    flip: Fraction = 0.5
    """Mirror along each axis."""
    rotate90: Fraction = 0.5
    """Quarter turns in planes whose voxels and patch are square."""
    affine: Fraction = 0.2
    """Turn within the slice by any angle and zoom by up to a fifth."""
    intensity: Fraction = 0.5
    """Brightness, contrast and gamma."""
    noise: Fraction = 0.2
    """Gaussian noise."""
    blur: Fraction = 0.15
    """Gaussian blur within the slice."""
    missing_section: Fraction = 0.1
    """Blank one or two slices of the image."""
    shifted_section: Fraction = 0.1
    """Shift the image and the labels of all slices after a random one."""
