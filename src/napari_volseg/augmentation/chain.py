"""The order in which a patch is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from napari_volseg.augmentation import defects, intensity
from napari_volseg.augmentation.patch import Patch
from napari_volseg.augmentation.spatial import flip_and_turn, move_sections
from napari_volseg.volume import VoxelSize

__all__ = ["augment"]


def augment(
    patch: Patch,
    chances: Mapping[str, float],
    voxel_size: VoxelSize,
    rng: Generator,
    *,
    in_plane: bool = False,
) -> Patch:
    """Return a randomly changed copy of the patch; the same `rng`, the same copy.

    Turning by any angle, zooming and bending belong to cropping, because they need
    voxels from around the patch: see `draw_deformation`.

    Parameters
    ----------
    chances
        Probability of each change, as `AugmentationConfig.chances` gives them.
    voxel_size
        Edge lengths (z, y, x) in nm.
    in_plane
        Slices stay slices, because targets were made slice by slice.
    """
    patch = flip_and_turn(patch, chances, voxel_size, rng, in_plane=in_plane)
    if rng.random() < chances["shifted_section"]:
        patch = move_sections(patch, rng, single=False)
    if _happens(chances["slipped_section"], rng):
        patch = move_sections(patch, rng, single=True)
    image = _change_image(patch.image_CZYX, chances, voxel_size, rng)
    return replace(patch, image_CZYX=np.ascontiguousarray(image, dtype=np.float32))


def _change_image(
    image: NDArray[np.float32],
    chances: Mapping[str, float],
    voxel_size: VoxelSize,
    rng: Generator,
) -> NDArray[np.float32]:
    """Change the image from what the specimen does to what the camera does."""
    if _happens(chances["defect"], rng):
        image = defects.stain_sections(image, rng)
    if rng.random() < chances["blur"]:
        image = intensity.blur_slices(image, rng)
    if _happens(chances["motion_blur"], rng):
        image = intensity.blur_motion(image, rng)
    if rng.random() < chances["intensity"]:
        image = intensity.change_intensity(image, rng)
    if _happens(chances["brightness_gradient"], rng):
        image = intensity.add_gradient(image, voxel_size, rng)
    if _happens(chances["section_contrast"], rng):
        image = intensity.change_sections(image, rng)
    if rng.random() < chances["noise"]:
        image = intensity.add_noise(image, rng)
    if _happens(chances["cut_noise"], rng):
        image = defects.cut_noise(image, voxel_size, rng)
    if rng.random() < chances["missing_section"]:
        image = defects.blank_sections(image, rng)
    return image


def _happens(chance: float, rng: Generator) -> bool:
    """Draw, but only for a change that may happen.

    So a new kind of change leaves the patches of a run without it as they were.
    """
    return chance > 0 and rng.random() < chance
