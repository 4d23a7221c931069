"""Faults of a specimen or a microscope; the targets stay as they are.

The network learns to see an object through them. What is given is never written.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from napari_volseg.volume import VoxelSize

__all__ = ["blank_sections", "cut_noise", "stain_sections"]

Image = NDArray[np.float32]


def blank_sections(image_CZYX: Image, rng: Generator) -> Image:
    """Blank one or two slices of a patch that has more than four."""
    depth = image_CZYX.shape[1]
    if depth <= 4:
        return image_CZYX
    image = image_CZYX.copy()
    start = int(rng.integers(0, depth - 1))
    image[:, start : start + int(rng.integers(1, 3))] = rng.uniform(0, 1)
    return image


def stain_sections(image_CZYX: Image, rng: Generator) -> Image:
    """Cover a blot of one or two slices with a dark or bright stain."""
    depth, height, width = image_CZYX.shape[1:]
    first = int(rng.integers(depth))
    last = min(depth, first + int(rng.integers(1, 3)))
    angle, level = rng.uniform(0, np.pi), rng.choice((-0.1, 1.1))
    y0, x0 = rng.uniform(0, height), rng.uniform(0, width)
    long, short = rng.uniform(0.1, 0.35, 2) * min(height, width)
    y = np.arange(height)[:, np.newaxis] - y0
    x = np.arange(width) - x0
    along = (np.cos(angle) * x + np.sin(angle) * y) / max(long, 1)
    across = (np.cos(angle) * y - np.sin(angle) * x) / max(short, 1)
    cover = np.exp(-((along**2 + across**2) ** 2)) * rng.uniform(0.6, 1)
    image = image_CZYX.copy()
    part = image[:, first:last]
    part += cover.astype(np.float32) * (np.float32(level) - part)
    return image


def cut_noise(image_CZYX: Image, voxel_size: VoxelSize, rng: Generator) -> Image:
    """Add strong noise in a block that is about as deep as wide, in nm."""
    shape = image_CZYX.shape[1:]
    edge = rng.uniform(0.15, 0.4) * min(
        n * size for n, size in zip(shape[1:], voxel_size[1:], strict=True)
    )
    box = []
    for n, size in zip(shape, voxel_size, strict=True):
        length = min(n, max(1, round(edge / size)))
        start = int(rng.integers(0, n - length + 1))
        box.append(slice(start, start + length))
    image = image_CZYX.copy()
    part = image[:, box[0], box[1], box[2]]
    noise = rng.standard_normal(part.shape, dtype=np.float32)
    part += noise * np.float32(rng.uniform(0.2, 0.5))
    return image
