"""Changes of brightness, contrast and sharpness; targets stay as they are.

Images are float32 with axes CZYX and values of about 0 to 1. What is given is
never written.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from napari_volseg.volume import VoxelSize

__all__ = [
    "add_gradient",
    "add_noise",
    "blur_motion",
    "blur_slices",
    "change_intensity",
    "change_sections",
]

Image = NDArray[np.float32]


def blur_slices(image_CZYX: Image, rng: Generator) -> Image:
    """Blur within the slice."""
    sigma = rng.uniform(0.5, 1.2)
    blurred: Image = ndimage.gaussian_filter(image_CZYX, (0, 0, sigma, sigma))
    return blurred


def change_intensity(image_CZYX: Image, rng: Generator) -> Image:
    """Change contrast, brightness and gamma of the whole patch."""
    contrast, brightness = rng.uniform(0.65, 1.5), rng.uniform(-0.2, 0.2)
    gamma = np.exp(rng.uniform(-0.3, 0.3))
    image = (image_CZYX - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
    changed: Image = np.sign(image) * np.abs(image) ** np.float32(gamma)
    return changed


def add_noise(image_CZYX: Image, rng: Generator) -> Image:
    """Add Gaussian noise of a random strength."""
    noise = rng.standard_normal(image_CZYX.shape, dtype=np.float32)
    return image_CZYX + noise * np.float32(rng.uniform(0.01, 0.2))


def add_gradient(image_CZYX: Image, voxel_size: VoxelSize, rng: Generator) -> Image:
    """Add brightness that rises in a random direction in space.

    From end to end of the patch it rises by 0.1 to 0.6.
    """
    direction = rng.standard_normal(3)
    ramps = [
        np.linspace(-0.5, 0.5, n) * n * size * way
        for n, size, way in zip(
            image_CZYX.shape[1:], voxel_size, direction, strict=True
        )
    ]
    height = sum(float(np.ptp(ramp)) for ramp in ramps)
    scale = rng.uniform(0.1, 0.6) / max(height, 1e-12)
    z, y, x = (np.float32(scale) * ramp.astype(np.float32) for ramp in ramps)
    shaded: Image = image_CZYX + z[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + x
    return shaded


def change_sections(image_CZYX: Image, rng: Generator) -> Image:
    """Change contrast and brightness of each slice by itself."""
    shape = (1, image_CZYX.shape[1], 1, 1)
    gain = rng.normal(1, 0.12, shape).clip(0.6, 1.4).astype(np.float32)
    shift = rng.normal(0, 0.06, shape).astype(np.float32)
    return (image_CZYX - np.float32(0.5)) * gain + (np.float32(0.5) + shift)


def blur_motion(image_CZYX: Image, rng: Generator) -> Image:
    """Blur up to three neighbouring slices along a line within the slice."""
    depth = image_CZYX.shape[1]
    first = int(rng.integers(depth))
    last = min(depth, first + int(rng.integers(1, 4)))
    angle, length = rng.uniform(0, np.pi), rng.uniform(4, 10)
    reach = int(np.ceil(length / 2))
    kernel = np.zeros((2 * reach + 1,) * 2, np.float32)
    steps = np.linspace(-length / 2, length / 2, 4 * reach + 1)
    rows = np.rint(reach + steps * np.sin(angle)).astype(int)
    columns = np.rint(reach + steps * np.cos(angle)).astype(int)
    kernel[rows, columns] = 1
    kernel /= kernel.sum()
    result = image_CZYX.copy()
    result[:, first:last] = ndimage.convolve(
        image_CZYX[:, first:last], kernel[np.newaxis, np.newaxis], mode="nearest"
    )
    return result
