"""Maps to instances in one call."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.levels import check_maps, foreground_levels, select
from napari_volseg.instances.numbering import count_voxels, renumber, renumbering
from napari_volseg.instances.seeds import find_seeds
from napari_volseg.instances.watershed import flood, inside

__all__ = ["make_height", "segment"]


def segment(
    maps_CZYX: NDArray[np.uint8],
    config: InstancesConfig,
    seeds_ZYX: NDArray[np.int32] | None = None,
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

    Returns
    -------
    NDArray
        Instances 1…n without gaps, 0 for background; shape (Z, Y, X).
    """
    maps = check_maps(maps_CZYX)
    seeds = find_seeds(maps, config) if seeds_ZYX is None else seeds_ZYX
    n_seeds = int(seeds.max(initial=0))
    mask_ZYX = select(maps, foreground_levels(config))
    state = flood(make_height(maps), seeds, mask_ZYX)
    del mask_ZYX
    flooded_ZYX = inside(state, seeds.shape)
    new_ids = renumbering(count_voxels(flooded_ZYX, n_seeds), config.min_size)
    # Seeds of our own are not needed any more: their array takes the result.
    result_ZYX = seeds if seeds_ZYX is None else np.empty_like(seeds)
    return renumber(flooded_ZYX, new_ids, result_ZYX)


def make_height(maps_CZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of boundary and 1 - distance, rounded down, as uint8.

    The distance is relative to each object, so at an edge between two it rises at
    different rates on either side, and by itself it would let the smaller one flood
    into the larger; the boundary holds the floods apart until all else is full.
    """
    height_ZYX = np.empty(maps_CZYX.shape[1:], np.uint8)
    _mix(maps_CZYX.reshape(3, -1), height_ZYX.reshape(-1))
    return height_ZYX


@njit(nogil=True, cache=True)
def _mix(maps: NDArray[np.uint8], height: NDArray[np.uint8]) -> None:
    boundary, distance = maps[1], maps[2]
    for i in range(height.size):
        height[i] = (np.uint16(boundary[i]) + np.uint16(255 - distance[i])) >> 1
