"""Maps to instances in one call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.levels import check_maps, foreground_levels, select
from napari_volseg.instances.numbering import count_voxels, renumber, renumbering
from napari_volseg.instances.seeds import find_seeds
from napari_volseg.instances.watershed import flood, inside

__all__ = ["segment"]


def segment(
    maps_CZYX: NDArray[np.uint8],
    config: InstancesConfig,
    seeds_ZYX: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """Return the instances of the maps.

    The seeds of `find_seeds` flood the voxels whose mask is above `config.mask`,
    boundary below `config.boundary` and distance at least `config.distance`, on
    the height 255 - distance. An object without a seed disappears, instances of
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
    state = flood(maps[2], 255, seeds, select(maps, foreground_levels(config)))
    flooded_ZYX = inside(state, seeds.shape)
    new_ids = renumbering(count_voxels(flooded_ZYX, n_seeds), config.min_size)
    # Seeds of our own are not needed any more: their array takes the result.
    result_ZYX = seeds if seeds_ZYX is None else np.empty_like(seeds)
    return renumber(flooded_ZYX, new_ids, result_ZYX)
