"""Seeds: one piece of confident interior for each object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.levels import check_maps, seed_levels, select
from napari_volseg.instances.peaks import separate_peaks

__all__ = ["find_seeds"]


def find_seeds(
    maps_CZYX: NDArray[np.uint8], config: InstancesConfig
) -> NDArray[np.int32]:
    """Label the seeds of the maps.

    Seeds are made of voxels whose mask is above `seed_mask`, boundary below
    `seed_boundary` and distance above `seed_distance`: one for each peak of the
    distance that rises by `seed_depth` above the saddle to a higher one. Seeds of
    fewer than `min_seed_size` voxels join their neighbour or are dropped.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1. Read, never written.

    Returns
    -------
    NDArray
        Seeds 1…n in raster order of their first voxel, 0 elsewhere; (Z, Y, X).
    """
    maps = check_maps(maps_CZYX)
    chosen_ZYX = select(maps, seed_levels(config))
    depth = 256 if config.seed_depth > 1 else round(255 * config.seed_depth)
    return separate_peaks(maps[2], chosen_ZYX, depth, config.min_seed_size)
