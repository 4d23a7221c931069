"""Seeds: one connected piece of confident interior for each object."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.levels import check_maps, seed_levels, select

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
    pieces_ZYX = _connect(chosen_ZYX)
    del chosen_ZYX
    sizes = np.bincount(pieces_ZYX.reshape(-1))
    seeds_ZYX: NDArray[np.int32] = renumbering(sizes, config.min_seed_size)[pieces_ZYX]
    return seeds_ZYX


def _connect(chosen_ZYX: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the 26-connected pieces, numbered by the raster order of first voxels."""
    n_z, n_y, n_x = chosen_ZYX.shape
    if min(chosen_ZYX.shape) < 4:
        # cc3d reserves too few labels for flat volumes with many tiny pieces.
        chosen_ZYX = np.pad(chosen_ZYX, (0, 1))
    pieces_ZYX = cc3d.connected_components(
        chosen_ZYX, connectivity=26, binary_image=True
    )
    return np.ascontiguousarray(pieces_ZYX[:n_z, :n_y, :n_x])


def renumbering(sizes: NDArray[Any], min_size: int) -> NDArray[np.int32]:
    """Return the new id of each id: 1…n for those large enough, 0 for the others.

    Parameters
    ----------
    sizes
        Number of voxels of ids 0, 1, 2…; ids without voxels are dropped too.
    """
    kept = sizes >= max(min_size, 1)
    kept[:1] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)
