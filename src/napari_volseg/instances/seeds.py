"""Seeds: one piece of confident interior for each object."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box, Size
from napari_volseg.instances.levels import Levels, check_maps, seed_levels
from napari_volseg.instances.numbering import raster_numbers, renumber
from napari_volseg.instances.peaks import (
    TILE,
    join_tiles,
    paint_seeds,
    reduce_tile,
)
from napari_volseg.instances.tiles import default_threads, map_tiles, tile_grid

__all__ = ["find_seeds", "peak_depth", "seed_heights", "sow"]


def find_seeds(
    maps_CZYX: NDArray[np.uint8], config: InstancesConfig, *, threads: int | None = None
) -> NDArray[np.int32]:
    """Label the seeds of the maps.

    Seeds are made of voxels whose mask is above `seed_mask`, boundary below
    `seed_boundary` and distance above `seed_distance`, 26-connected. Where such a
    piece has several peaks of distance that rise by `seed_depth` above the level at
    which they meet, each is a seed: the part of it above that level. What has fewer
    than `min_seed_size` voxels is neither a peak nor a seed.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1. Read, never written.
    threads
        How many to use; by default one a processor. The result is the same.

    Returns
    -------
    NDArray
        Seeds 1…n in raster order of their first voxel, 0 elsewhere; (Z, Y, X).
    """
    threads = threads or default_threads()
    seeds_ZYX, n = sow(check_maps(maps_CZYX), config, threads)
    return renumber(seeds_ZYX, raster_numbers(seeds_ZYX, n), threads)


def sow(
    maps_CZYX: NDArray[np.uint8],
    config: InstancesConfig,
    threads: int,
    tile: Size = TILE,
) -> tuple[NDArray[np.int32], int]:
    """Return the seeds, 1…n in any order, and n; `tile` makes no difference."""
    shape, levels = maps_CZYX.shape[1:], seed_levels(config)
    depth, min_size = peak_depth(config), config.min_seed_size
    seeds_ZYX = np.zeros(shape, np.int32)
    tiles = tile_grid(shape, tile)

    def heights_of(box: Box) -> NDArray[np.uint8]:
        return seed_heights(maps_CZYX[:, *box.slices], levels)

    def read_layers(axis: int, at: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        where = [slice(None)] * 3
        where[axis] = slice(at - 1, at + 1)
        before, after = np.moveaxis(seed_heights(maps_CZYX[:, *where], levels), axis, 0)
        return before, after

    reduced = map_tiles(
        lambda box: reduce_tile(heights_of(box), box, shape, depth, min_size),
        tiles,
        threads,
    )
    orders, n = join_tiles(
        [peaks for peaks, _ in reduced], shape, read_layers, depth, min_size
    )
    map_tiles(
        lambda i: paint_seeds(
            heights_of(tiles[i]), reduced[i][1], orders[i], seeds_ZYX[tiles[i].slices]
        ),
        range(len(tiles)),
        threads,
    )
    return seeds_ZYX, n


def peak_depth(config: InstancesConfig) -> int:
    """Return `seed_depth` as a difference of uint8, 256 for never."""
    return 256 if config.seed_depth > 1 else round(255 * config.seed_depth)


def seed_heights(maps_CZYX: NDArray[np.uint8], levels: Levels) -> NDArray[np.uint8]:
    """Return the distance where a seed may be, 0 elsewhere."""
    heights_ZYX = np.empty(maps_CZYX.shape[1:], np.uint8)
    _seed_heights(
        maps_CZYX,
        levels.mask_min,
        levels.boundary_max,
        levels.distance_min,
        heights_ZYX,
    )
    return heights_ZYX


@njit(nogil=True, cache=True)
def _seed_heights(
    maps: NDArray[np.uint8],
    mask_min: int,
    boundary_max: int,
    distance_min: int,
    heights: NDArray[np.uint8],
) -> None:
    for z in range(heights.shape[0]):
        for y in range(heights.shape[1]):
            mask, boundary, distance = maps[0, z, y], maps[1, z, y], maps[2, z, y]
            row = heights[z, y]
            for x in range(row.size):
                chosen = (
                    (mask[x] >= mask_min)
                    & (boundary[x] <= boundary_max)
                    & (distance[x] >= distance_min)
                )
                row[x] = distance[x] if chosen else 0
