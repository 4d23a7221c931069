"""Seeds: one connected piece of confident interior for each object."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.levels import check_maps, seed_levels, select
from napari_volseg.instances.numbering import count_voxels, renumber, renumbering

__all__ = ["find_seeds"]


def find_seeds(
    maps_CZYX: NDArray[np.uint8], config: InstancesConfig
) -> NDArray[np.int32]:
    """Label the seeds of the maps.

    A seed is a 26-connected piece of at least `config.min_seed_size` voxels whose
    mask is above `seed_mask`, boundary below `seed_boundary` and distance above
    `seed_distance`.

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
    if not chosen_ZYX.any():
        return np.zeros(chosen_ZYX.shape, np.int32)
    n_z, n_y, n_x = shape = chosen_ZYX.shape
    if min(shape) < 4:
        # cc3d reserves too few labels for flat volumes with many tiny pieces.
        chosen_ZYX = np.pad(chosen_ZYX, (0, 1))
    pieces_ZYX, n_pieces = cc3d.connected_components(
        chosen_ZYX, connectivity=26, return_N=True, binary_image=True
    )
    del chosen_ZYX
    pieces_ZYX = pieces_ZYX[:n_z, :n_y, :n_x]
    sizes = count_voxels(pieces_ZYX, n_pieces)
    new_ids = renumbering(sizes, config.min_seed_size)
    return renumber(pieces_ZYX, new_ids, np.empty(shape, np.int32))
