"""Maps to instances in one call."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.levels import Levels, check_maps, foreground_levels
from napari_volseg.instances.numbering import (
    count_voxels,
    raster_numbers,
    renumber,
    renumbering,
)
from napari_volseg.instances.seeds import sow
from napari_volseg.instances.tiles import map_slabs
from napari_volseg.instances.watershed import flood
from napari_volseg.processors import default_threads

__all__ = ["enter", "make_height", "segment"]


def segment(
    maps_CZYX: NDArray[np.uint8],
    config: InstancesConfig,
    seeds_ZYX: NDArray[np.int32] | None = None,
    *,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Return the instances of the maps.

    The seeds of `find_seeds` flood the voxels whose mask is above `config.mask`,
    boundary below `config.boundary` and distance at least `config.distance`, on
    the height of `make_height`. An object without a seed disappears, instances of
    fewer than `config.min_size` voxels are dropped, the others renumbered.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1. Read, never written.
    seeds_ZYX
        What `find_seeds` returns, where it is known already. Read, never written.
    threads
        How many to use; by default one a processor. The result is the same.

    Returns
    -------
    NDArray
        Instances 1…n without gaps, in the order of their seeds, 0 for background;
        shape (Z, Y, X).
    """
    maps = check_maps(maps_CZYX)
    threads = threads or default_threads()
    if seeds_ZYX is None:
        labels_ZYX, n_seeds = sow(maps, config, threads)
        # By first voxel of the seed, before any of it is lost outside the mask.
        order = raster_numbers(labels_ZYX, n_seeds, threads)
    else:
        labels_ZYX = np.array(seeds_ZYX, np.int32, order="C")
        n_seeds = int(labels_ZYX.max(initial=0))
        order = np.arange(n_seeds + 1, dtype=np.int32)
    arrays = enter(maps, foreground_levels(config), labels_ZYX, threads)
    flood(*arrays, labels_ZYX, threads)
    del arrays
    sizes = count_voxels(labels_ZYX, n_seeds, threads)
    by_order = np.zeros_like(sizes)
    by_order[order] = sizes
    return renumber(labels_ZYX, renumbering(by_order, config.min_size)[order], threads)


def enter(
    maps_CZYX: NDArray[np.uint8],
    levels: Levels,
    labels_ZYX: NDArray[np.int32],
    threads: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return heights and arrivals as `flood` takes them.

    Parameters
    ----------
    labels_ZYX
        The seeds; those outside the foreground are removed.
    """
    shape = labels_ZYX.shape
    height_ZYX = np.empty(shape, np.uint8)
    arrivals_ZYX = np.empty(shape, np.int32)

    def fill(start: int, stop: int) -> None:
        _enter(
            maps_CZYX[:, start:stop],
            levels.mask_min,
            levels.boundary_max,
            levels.distance_min,
            height_ZYX[start:stop],
            labels_ZYX[start:stop],
            arrivals_ZYX[start:stop],
        )

    map_slabs(fill, shape[0], threads)
    return height_ZYX, arrivals_ZYX


def make_height(maps_CZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of boundary and 1 - distance, rounded down, as uint8.

    The distance is relative to each object, so at an edge between two it rises at
    different rates on either side, and by itself it would let the smaller one flood
    into the larger; the boundary holds the floods apart until all else is full.
    """
    boundary, distance = maps_CZYX[1].astype(np.uint16), maps_CZYX[2]
    height_ZYX: NDArray[np.uint8] = ((boundary + 255 - distance) >> 1).astype(np.uint8)
    return height_ZYX


@njit(nogil=True, cache=True)
def _enter(
    maps: NDArray[np.uint8],
    mask_min: int,
    boundary_max: int,
    distance_min: int,
    height: NDArray[np.uint8],
    labels: NDArray[np.int32],
    arrivals: NDArray[np.int32],
) -> None:
    """Fill in height and arrivals before the flood; remove seeds outside the mask."""
    for z in range(height.shape[0]):
        for y in range(height.shape[1]):
            mask, boundary, distance = maps[0, z, y], maps[1, z, y], maps[2, z, y]
            for x in range(height.shape[2]):
                # The same as in `make_height`.
                h = (np.int32(boundary[x]) + 255 - np.int32(distance[x])) >> 1
                height[z, y, x] = h
                inside = (
                    (mask[x] >= mask_min)
                    & (boundary[x] <= boundary_max)
                    & (distance[x] >= distance_min)
                )
                label = labels[z, y, x] if inside else 0
                labels[z, y, x] = max(label, 0)
                arrival = (h << 23) + 1 if label > 0 else -1 - h
                arrivals[z, y, x] = arrival if inside else 0
