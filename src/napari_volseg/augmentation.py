"""Random changes of a training patch: image, targets and their validity together.

Every function takes and returns a `Patch` and draws from the generator given,
so a patch is determined by its seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from napari_volseg.config import AugmentationConfig

__all__ = ["Patch", "augment", "turnable_planes"]


@dataclass(frozen=True, slots=True)
class Patch:
    """A crop with what is to be learnt from it."""

    image_CZYX: NDArray[np.float32]
    """Normalised intensities, about 0 to 1."""
    targets_CZYX: NDArray[np.uint8]
    """Mask, boundary, distance × 255."""
    valid_CZYX: NDArray[np.bool_]
    """True where the target is known."""

    def map(self, change: Any) -> Patch:
        """Apply one spatial change to all three arrays."""
        return Patch(
            change(self.image_CZYX), change(self.targets_CZYX), change(self.valid_CZYX)
        )


def turnable_planes(
    voxel_size: tuple[float, float, float], patch_size: tuple[int, int, int]
) -> list[tuple[int, int]]:
    """Return the planes (pairs of axes) that quarter turns leave as they are."""
    return [
        (a, b)
        for a, b in ((1, 2), (0, 1), (0, 2))
        if np.isclose(voxel_size[a], voxel_size[b], rtol=0.05)
        and patch_size[a] == patch_size[b]
    ]


def augment(
    patch: Patch,
    config: AugmentationConfig,
    planes: list[tuple[int, int]],
    rng: Generator,
) -> Patch:
    """Return a randomly changed copy of the patch; the same `rng`, the same copy."""
    patch = _flip_and_turn(patch, config, planes, rng)
    if rng.random() < config.shifted_section:
        patch = _shift_section(patch, rng)
    image = patch.image_CZYX.copy()
    if rng.random() < config.blur:
        sigma = rng.uniform(0.5, 1.2)
        image = ndimage.gaussian_filter(image, (0, 0, sigma, sigma))
    if rng.random() < config.intensity:
        image = _change_intensity(image, rng)
    if rng.random() < config.noise:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        image += noise * np.float32(rng.uniform(0.01, 0.2))
    if rng.random() < config.missing_section and image.shape[1] > 4:
        start = int(rng.integers(0, image.shape[1] - 1))
        image[:, start : start + int(rng.integers(1, 3))] = rng.uniform(0, 1)
    return replace(patch, image_CZYX=np.ascontiguousarray(image, dtype=np.float32))


def _flip_and_turn(
    patch: Patch,
    config: AugmentationConfig,
    planes: list[tuple[int, int]],
    rng: Generator,
) -> Patch:
    for axis in (1, 2, 3):
        if rng.random() < config.flip:
            patch = patch.map(lambda a, axis=axis: np.flip(a, axis))
    for first, second in planes:
        if rng.random() < config.rotate90:
            turns, axes = int(rng.integers(1, 4)), (first + 1, second + 1)
            patch = patch.map(lambda a, k=turns, axes=axes: np.rot90(a, k, axes))
    return patch.map(np.ascontiguousarray)


def _shift_section(patch: Patch, rng: Generator) -> Patch:
    """Move all slices after a random one, as a badly aligned section does.

    Labels move with the image; what comes in from the other side is not valid.
    """
    depth, height, width = patch.image_CZYX.shape[1:]
    if depth < 4:
        return patch
    first = int(rng.integers(1, depth))
    reach = max(1, min(height, width) // 16)
    dy, dx = (int(n) for n in rng.integers(-reach, reach + 1, 2))

    def move(array: NDArray[Any]) -> NDArray[Any]:
        moved = array.copy()
        moved[:, first:] = np.roll(array[:, first:], (dy, dx), axis=(2, 3))
        return moved

    moved = patch.map(move)
    rows = slice(0, dy) if dy >= 0 else slice(height + dy, height)
    columns = slice(0, dx) if dx >= 0 else slice(width + dx, width)
    moved.valid_CZYX[:, first:, rows] = False
    moved.valid_CZYX[:, first:, :, columns] = False
    return moved


def _change_intensity(
    image: NDArray[np.float32], rng: Generator
) -> NDArray[np.float32]:
    contrast, brightness = rng.uniform(0.65, 1.5), rng.uniform(-0.2, 0.2)
    gamma = np.exp(rng.uniform(-0.3, 0.3))
    image = (image - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
    return np.sign(image) * np.abs(image) ** np.float32(gamma)
