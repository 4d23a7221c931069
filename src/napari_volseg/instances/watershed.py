"""Seeded watershed on uint8 heights, tile by tile, the same whatever the tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size
from napari_volseg.instances.arrival import find_arrivals
from napari_volseg.instances.tiles import (
    map_slabs,
    map_tiles,
    tile_grid,
)
from napari_volseg.processors import default_threads

__all__ = ["flood", "watershed"]

_TILE: Size = (32, 64, 64)


def watershed(
    height_ZYX: NDArray[np.uint8],
    seeds_ZYX: NDArray[np.integer[Any]],
    mask_ZYX: NDArray[np.bool_],
    *,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Flood the mask from the seeds, lowest voxels first.

    Voxels are 6-connected. A voxel is reached at the height of the pass that leads
    to it, and voxels of one pass in rounds, so that two floods meet halfway. It has the
    id of the neighbour that was reached first; among equals, of the one before it
    along z, y, x, then of the one after it along x, y, z. So the result depends
    neither on an order of the seeds nor on how the volume is divided.

    Parameters
    ----------
    height_ZYX
        Heights, uint8.
    seeds_ZYX
        Ids above 0 where the flood starts; seeds outside the mask are ignored.
    mask_ZYX
        Where the flood may go.
    threads
        How many to use; by default one a processor. The result is the same.

    Returns
    -------
    NDArray
        Id of the seed that reached each voxel, 0 where none did; the inputs are
        not written.

    Raises
    ------
    DataError
        If an id is too large for 32 bits.

    References
    ----------
    Flooding level by level: Meyer 1994, Signal Processing 38(1).
    """
    if height_ZYX.dtype != np.uint8 or height_ZYX.ndim != 3:
        raise ValueError(f"heights must be uint8 ZYX, not {height_ZYX.dtype}")
    if not height_ZYX.shape == seeds_ZYX.shape == mask_ZYX.shape:
        raise ValueError(
            f"height {height_ZYX.shape}, seeds {seeds_ZYX.shape} and mask "
            f"{mask_ZYX.shape} must have one shape"
        )
    if seeds_ZYX.size and int(seeds_ZYX.max()) >= 2**31:
        raise DataError(
            f"the seeds have the id {int(seeds_ZYX.max())}, beyond 31 bits: "
            "renumber them"
        )
    labels_ZYX = np.array(seeds_ZYX, np.int32, order="C")
    height_ZYX = np.ascontiguousarray(height_ZYX)
    arrivals_ZYX = np.empty(height_ZYX.shape, np.int32)
    _enter(
        height_ZYX, np.ascontiguousarray(mask_ZYX, np.bool_), labels_ZYX, arrivals_ZYX
    )
    flood(height_ZYX, arrivals_ZYX, labels_ZYX, threads or default_threads())
    return labels_ZYX


def flood(
    height_ZYX: NDArray[np.uint8],
    arrivals_ZYX: NDArray[np.int32],
    labels_ZYX: NDArray[np.int32],
    threads: int,
) -> None:
    """Flood from the labels, in place.

    Parameters
    ----------
    arrivals_ZYX
        As `find_arrivals` takes them; on return when each voxel is reached.
    labels_ZYX
        On entry the seeds, 0 elsewhere.
    """
    find_arrivals(height_ZYX, arrivals_ZYX, threads)
    n_slices = labels_ZYX.shape[0]
    map_slabs(lambda a, b: _point(arrivals_ZYX, labels_ZYX, a, b), n_slices, threads)
    map_tiles(
        lambda box: _follow(labels_ZYX, *box.start, *box.stop),
        tile_grid(Box.whole(labels_ZYX.shape), _TILE),
        threads,
    )


@njit(nogil=True, cache=True)
def _enter(
    height: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    labels: NDArray[np.int32],
    arrivals: NDArray[np.int32],
) -> None:
    for z in range(height.shape[0]):
        for y in range(height.shape[1]):
            for x in range(height.shape[2]):
                h = np.int32(height[z, y, x])
                if not mask[z, y, x]:
                    labels[z, y, x] = arrivals[z, y, x] = 0
                elif labels[z, y, x] > 0:
                    arrivals[z, y, x] = (h << 23) + 1
                else:
                    labels[z, y, x] = 0
                    arrivals[z, y, x] = -1 - h


@njit(nogil=True, cache=True)
def _point(
    arrivals: NDArray[np.int32], labels: NDArray[np.int32], start: int, stop: int
) -> None:
    """Write where the flood came from into voxels without a label: -1 to -6.

    That is the neighbour that was reached first, and among equals the first of these:
    -1 is the one before along z, then y, x; -4 the one after along x, then y, z.
    """
    n_z, n_y, n_x = labels.shape
    wall = np.zeros(n_x, np.int32)
    for z in range(start, stop):
        for y in range(n_y):
            row, out = arrivals[z, y], labels[z, y]
            above = arrivals[z - 1, y] if z > 0 else wall
            below = arrivals[z + 1, y] if z + 1 < n_z else wall
            before = arrivals[z, y - 1] if y > 0 else wall
            behind = arrivals[z, y + 1] if y + 1 < n_y else wall
            for x in range(n_x):
                # As unsigned numbers, walls are later than anything.
                least, way = np.uint32(row[x] - 1), 0
                there = np.uint32(above[x] - 1)
                way, least = (-1 if there < least else way), min(there, least)
                there = np.uint32(before[x] - 1)
                way, least = (-2 if there < least else way), min(there, least)
                there = np.uint32((row[x - 1] if x > 0 else 0) - 1)
                way, least = (-3 if there < least else way), min(there, least)
                there = np.uint32((row[x + 1] if x + 1 < n_x else 0) - 1)
                way, least = (-4 if there < least else way), min(there, least)
                there = np.uint32(behind[x] - 1)
                way, least = (-5 if there < least else way), min(there, least)
                there = np.uint32(below[x] - 1)
                way = -6 if there < least else way
                way = way if row[x] > 0 else 0
                out[x] = out[x] if out[x] > 0 else way


@njit(nogil=True, cache=True)
def _follow(
    labels: NDArray[np.int32], z0: int, y0: int, x0: int, z1: int, y1: int, x1: int
) -> None:
    """Follow the ways of `_point` to a label, and take it along all the way.

    Box by box, because a way seldom leads far and so stays in the cache.
    """
    n_y, n_x = labels.shape[1:]
    flat = labels.reshape(-1)
    steps = np.array([0, n_y * n_x, n_x, 1, -1, -n_x, -n_y * n_x])
    path = np.empty(1024, np.int64)
    for z in range(z0, z1):
        for y in range(y0, y1):
            row = (z * n_y + y) * n_x
            for voxel in range(row + x0, row + x1):
                way = flat[voxel]
                if way >= 0:
                    continue
                at, n = voxel, 0
                while way < 0:
                    if n == path.size:
                        longer = np.empty(2 * n, np.int64)
                        longer[:n] = path
                        path = longer
                    path[n] = at
                    n += 1
                    at -= steps[-way]
                    way = flat[at]
                for i in range(n):
                    flat[path[i]] = way
