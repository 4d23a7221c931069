"""Changes that move voxels: image, targets and validity move alike."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from napari_volseg.augmentation.patch import Patch
from napari_volseg.volume import VoxelSize

__all__ = ["flip_and_turn", "move_sections", "turnable_planes"]

_SQUARE = 0.05
"""Edges of voxels that differ by no more than this share count as equal."""
_SHIFT = 16
"""Sections shift by up to this part of the patch."""


def turnable_planes(
    voxel_size: VoxelSize, patch_size: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Return the planes (pairs of axes) that quarter turns leave as they are."""
    return [
        (a, b)
        for a, b in ((1, 2), (0, 1), (0, 2))
        if np.isclose(voxel_size[a], voxel_size[b], rtol=_SQUARE)
        and patch_size[a] == patch_size[b]
    ]


def flip_and_turn(
    patch: Patch,
    chances: Mapping[str, float],
    voxel_size: VoxelSize,
    rng: Generator,
    *,
    in_plane: bool = False,
) -> Patch:
    """Mirror each axis, and turn each square plane, by chance.

    Parameters
    ----------
    in_plane
        Turn within slices only.
    """
    for axis in (1, 2, 3):
        if rng.random() < chances["flip"]:
            patch = patch.map(partial(np.flip, axis=axis))
    for first, second in turnable_planes(voxel_size, patch.image_CZYX.shape[1:]):
        if in_plane and first == 0:
            continue
        if rng.random() < chances["rotate90"]:
            turns, axes = int(rng.integers(1, 4)), (first + 1, second + 1)
            patch = patch.map(partial(np.rot90, k=turns, axes=axes))
    return patch.map(np.ascontiguousarray)


def move_sections(patch: Patch, rng: Generator, *, single: bool) -> Patch:
    """Move one slice, or all after a random one, as badly aligned sections are.

    Labels move with the image; what comes in from the other side is not valid. A
    patch of fewer than four slices stays as it is.
    """
    depth, height, width = patch.image_CZYX.shape[1:]
    if depth < 4:
        return patch
    first = int(rng.integers(1, depth))
    moved = slice(first, first + 1 if single else depth)
    reach = max(1, min(height, width) // _SHIFT)
    dy, dx = (int(n) for n in rng.integers(-reach, reach + 1, 2))

    def move(array: NDArray[Any]) -> NDArray[Any]:
        result = array.copy()
        result[:, moved] = np.roll(array[:, moved], (dy, dx), axis=(2, 3))
        return result

    result = patch.map(move)
    rows = slice(0, dy) if dy >= 0 else slice(height + dy, height)
    columns = slice(0, dx) if dx >= 0 else slice(width + dx, width)
    result.valid_CZYX[:, moved, rows] = False
    result.valid_CZYX[:, moved, :, columns] = False
    return result
