"""What other thresholds change of a flood, voxel by voxel."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.instances.arrival import WALL
from napari_volseg.instances.levels import Levels
from napari_volseg.instances.numbering import number
from napari_volseg.instances.tiles import map_slabs

__all__ = ["Changes", "compare", "longer", "name_seeds"]

Arrivals = NDArray[np.int32]
Heights = NDArray[np.uint8]
Ids = NDArray[np.int32]
Places = NDArray[np.int64]
Changes = tuple[Places, Places]
"""Voxels (N, 2), with the arrivals they had, and seeds with a name of their own."""

_SHIFT = 23


def name_seeds(
    old_ZYX: Ids, new_ZYX: Ids, n_old: int, n_new: int, threads: int
) -> tuple[Ids, Ids]:
    """Return names and numbers.

    Returns
    -------
    names
        For each of the ids 0…n_old the id of one new seed in its place, or 0.
    numbers
        What `raster_numbers` returns for the new ones.
    """
    names = np.zeros(n_old + 1, np.int32)
    found = []
    for pairs, ids in map_slabs(
        lambda a, b: _name(
            old_ZYX[a:b].reshape(-1), new_ZYX[a:b].reshape(-1), n_old, n_new
        ),
        len(old_ZYX),
        threads,
    ):
        names[pairs[:, 0]] = pairs[:, 1]
        found.append(ids)
    return names, number(found, n_new)


def compare(
    maps_CZYX: NDArray[np.uint8],
    levels: Levels,
    seeds: tuple[Ids, Ids],
    names: Ids,
    flooded: tuple[Heights, Arrivals, Ids],
    threads: int,
) -> Changes:
    """Bring what each voxel is by itself up to date, and return what changed.

    Parameters
    ----------
    levels
        Where the flood may go now.
    seeds
        The old ones and the new ones, (Z, Y, X) each.
    names
        What `name_seeds` returns for them.
    flooded
        Heights, and arrivals and labels of the old flood; both are written: a new
        seed and a wall have their values, what is new has not been reached, and every
        label is the new id of the old one.
    """
    n_z, n_y, n_x = maps_CZYX.shape[1:]
    old, new = seeds
    height_ZYX, arrivals_ZYX, labels_ZYX = flooded

    def work(a: int, b: int) -> Changes:
        changed, renamed = _compare(
            maps_CZYX[:, a:b],
            levels.mask_min,
            levels.boundary_max,
            levels.distance_min,
            old[a:b],
            new[a:b],
            names,
            height_ZYX[a:b],
            arrivals_ZYX[a:b],
            labels_ZYX[a:b],
            a * n_y * n_x,
        )
        return changed, renamed

    parts = map_slabs(work, n_z, threads)
    return (
        np.concatenate([np.empty((0, 2), np.int64), *(c for c, _ in parts)]),
        np.concatenate([np.empty(0, np.int64), *(r for _, r in parts)]),
    )


@njit(nogil=True, cache=True)
def _name(old: Ids, new: Ids, n_old: int, n_new: int) -> tuple[Ids, Ids]:
    """Return pairs (N, 2) of old and new ids, one for each old id that has any.

    And the new ids in raster order of their first voxels.
    """
    is_named = np.zeros(n_old + 1, np.bool_)
    is_listed = np.zeros(n_new + 1, np.bool_)
    is_named[0] = is_listed[0] = True
    pairs, n_pairs = np.empty((n_old, 2), np.int32), 0
    found, n = np.empty(n_new, np.int32), 0
    for i in range(old.size):
        if new[i] == 0:
            continue
        if not is_listed[new[i]]:
            is_listed[new[i]] = True
            found[n] = new[i]
            n += 1
        if not is_named[old[i]]:
            is_named[old[i]] = True
            pairs[n_pairs, 0], pairs[n_pairs, 1] = old[i], new[i]
            n_pairs += 1
    return pairs[:n_pairs].copy(), found[:n].copy()


@njit(nogil=True, cache=True)
def longer(rows: Places) -> Places:
    """Return an array of twice the size with the same items first."""
    more = np.empty(2 * rows.size, np.int64)
    more[: rows.size] = rows
    return more


@njit(nogil=True, cache=True)
def _compare(
    maps: NDArray[np.uint8],
    mask_min: int,
    boundary_max: int,
    distance_min: int,
    old_seeds: Ids,
    new_seeds: Ids,
    names: Ids,
    height: Heights,
    arrivals: Arrivals,
    labels: Ids,
    first: int,
) -> tuple[Places, Places]:
    n_x = labels.shape[2]
    inside, flags = np.empty(n_x, np.bool_), np.empty(n_x, np.bool_)
    named = np.empty(n_x, np.int32)
    changed, n_changed = np.empty((1024, 2), np.int64), 0
    renamed, n_renamed = np.empty(1024, np.int64), 0
    place = first
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            mask, boundary, distance = maps[0, z, y], maps[1, z, y], maps[2, z, y]
            old, new, label = old_seeds[z, y], new_seeds[z, y], labels[z, y]
            came, high = arrivals[z, y], height[z, y]
            # Short loops over few arrays are what compilers turn into vectors.
            for x in range(n_x):
                inside[x] = (
                    (mask[x] >= mask_min)
                    & (boundary[x] <= boundary_max)
                    & (distance[x] >= distance_min)
                )
            run, name = np.int32(-1), np.int32(0)
            for x in range(n_x):
                if label[x] != run:
                    run = label[x]
                    name = names[run]
                named[x] = name
            n_flags = 0
            for x in range(n_x):
                is_seed = inside[x] & (new[x] > 0)
                was_seed = (came[x] != WALL) & (old[x] > 0)
                flags[x] = (
                    (inside[x] != (came[x] != WALL))
                    | (is_seed != was_seed)
                    | (is_seed & (new[x] != named[x]))
                )
                n_flags += flags[x]
            # Any new id is right for what has not changed, as its seed has it.
            for x in range(n_x):
                is_in = np.int32(inside[x])
                is_seed = is_in & np.int32(new[x] > 0)
                label[x] = new[x] * is_seed + named[x] * (is_in - is_seed)
            if n_flags == 0:
                place += n_x
                continue
            for x in range(n_x):
                if not flags[x]:
                    continue
                is_seed = inside[x] & (new[x] > 0)
                was_seed = (came[x] != WALL) & (old[x] > 0)
                if is_seed:
                    # What was no seed may have borne another name.
                    if n_renamed == renamed.size:
                        renamed = longer(renamed)
                    renamed[n_renamed] = place + x
                    n_renamed += 1
                if inside[x] == (came[x] != WALL) and is_seed == was_seed:
                    continue
                if n_changed == len(changed):
                    more = np.empty((2 * n_changed, 2), np.int64)
                    more[:n_changed] = changed
                    changed = more
                changed[n_changed, 0], changed[n_changed, 1] = place + x, came[x]
                n_changed += 1
                h = np.int32(high[x])
                if not inside[x]:
                    came[x] = WALL
                elif is_seed:
                    came[x] = (h << _SHIFT) + 1
                elif came[x] == WALL:
                    came[x] = -1 - h
            place += n_x
    return changed[:n_changed].copy(), renamed[:n_renamed].copy()
