"""The flood of one block, and what it saw beyond its faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box
from napari_volseg.instances.arrival import WALL
from napari_volseg.instances.levels import Levels
from napari_volseg.instances.segmentation import enter
from napari_volseg.instances.watershed import flood

__all__ = ["SIDES", "Face", "Flooded", "flood_block"]

SIDES = tuple((axis, side) for axis in range(3) for side in range(2))
"""Axis, and 0 before or 1 after the block."""

Face = NDArray[np.int32]
"""Arrivals and labels of a layer of voxels, shape (2, A, B)."""


@dataclass(frozen=True, slots=True)
class Flooded:
    """The labels of a block, its outermost voxels, and those beyond as it saw them."""

    labels_ZYX: NDArray[np.int32]
    around_ZYX: NDArray[np.int32]
    """The labels with one voxel more on every side, where the volume goes on."""
    own: Mapping[tuple[int, int], Face]
    seen: Mapping[tuple[int, int], Face]


def flood_block(
    maps_CZYX: NDArray[np.uint8],
    seeds_ZYX: NDArray[np.int32],
    levels: Levels,
    core: Box,
    region: Box,
    around: Mapping[tuple[int, int], Face],
    threads: int,
) -> Flooded:
    """Flood a region of a volume.

    Parameters
    ----------
    maps_CZYX, seeds_ZYX
        Of the region; the seeds are overwritten.
    core
        The block; the region goes beyond it where the volume does.
    around
        The layers next to the block as its neighbours found them, where they are
        known. The region is then one voxel larger than the block.
    """
    height_ZYX, arrivals_ZYX = enter(maps_CZYX, levels, seeds_ZYX, threads)
    if around:
        z, y, x = core.within(region)
        edge = np.ones(arrivals_ZYX.shape, np.bool_)
        edge[z, y, x] = False
        arrivals_ZYX[edge], seeds_ZYX[edge] = WALL, 0
        for (axis, side), face in around.items():
            layer = _layer(core, region, axis, side, beyond=True)
            arrivals_ZYX[layer], seeds_ZYX[layer] = face[0], np.maximum(face[1], 0)
    flood(height_ZYX, arrivals_ZYX, seeds_ZYX, threads)
    faces: list[dict[tuple[int, int], Face]] = [{}, {}]
    for axis, side in SIDES:
        limit = region.stop[axis] if side else region.start[axis]
        if limit != (core.stop[axis] if side else core.start[axis]):
            for beyond, found in enumerate(faces):
                layer = _layer(core, region, axis, side, beyond=bool(beyond))
                found[axis, side] = np.stack([arrivals_ZYX[layer], seeds_ZYX[layer]])
    wider = core.grow((1, 1, 1), region.stop)
    wider = Box(
        tuple(max(a, b) for a, b in zip(wider.start, region.start, strict=True)),  # type: ignore[arg-type]
        wider.stop,
    )
    own, seen = faces
    return Flooded(
        seeds_ZYX[core.within(region)], seeds_ZYX[wider.within(region)], own, seen
    )


def _layer(
    core: Box, region: Box, axis: int, side: int, *, beyond: bool
) -> tuple[slice | int, ...]:
    """Return the index of the block's layer at a side, or of the one beyond it."""
    index: list[slice | int] = list(core.within(region))
    inner = core.stop[axis] - 1 if side else core.start[axis]
    step = (1 if side else -1) if beyond else 0
    index[axis] = inner + step - region.start[axis]
    return tuple(index)
