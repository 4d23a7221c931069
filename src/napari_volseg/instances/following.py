"""Instances that follow their thresholds: what a change leaves as it is, is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.changes import compare, name_seeds
from napari_volseg.instances.levels import Levels, check_maps, foreground_levels
from napari_volseg.instances.numbering import (
    count_voxels,
    raster_numbers,
    renumbering,
    take_ids,
)
from napari_volseg.instances.repairing import repair
from napari_volseg.instances.seeds import Terrain, sow, survey
from napari_volseg.instances.segmentation import enter
from napari_volseg.instances.watershed import flood
from napari_volseg.processors import default_threads

__all__ = ["Follower"]

_MANY = 8
"""Where more than one voxel in this many changed, a new flood is faster."""


@dataclass(frozen=True, slots=True)
class _Flooded:
    """A flood: where it came from, where it might go, and what it left."""

    seeds_ZYX: NDArray[np.int32]
    numbers: NDArray[np.int32]
    """What `raster_numbers` returns for the seeds."""
    levels: Levels
    height_ZYX: NDArray[np.uint8]
    arrivals_ZYX: NDArray[np.int32]
    labels_ZYX: NDArray[np.int32]
    """By id of the seed, small instances included."""

    @property
    def n_seeds(self) -> int:
        """Number of seeds."""
        return len(self.numbers) - 1


class Follower:
    """Makes the instances of the same maps again and again.

    They are exactly those of `segment`, whatever was asked before; what thresholds
    leave as it was is kept, so that a small change of one takes a small part of the
    time. It holds 21 bytes a voxel beside the maps, four more once seeds were asked
    for, and is for one thread at a time.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1. Read, never written.
    threads
        How many to use; by default one a processor. The result is the same.

    Raises
    ------
    DataError
        If the maps are not three channels of uint8.
    """

    def __init__(
        self, maps_CZYX: NDArray[np.uint8], *, threads: int | None = None
    ) -> None:
        self._maps = check_maps(maps_CZYX)
        self._threads = threads or default_threads()
        self._terrain: tuple[object, Terrain] | None = None
        self._seeds: tuple[object, NDArray[np.int32], int] | None = None
        self._numbered: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None
        """Seeds by any id, and the same in raster order."""
        self._flooded: _Flooded | None = None

    def find_seeds(self, config: InstancesConfig) -> NDArray[np.int32]:
        """Return the seeds as the function of that name does; do not write them.

        Thresholds that do not concern seeds give the very same array again.
        """
        seeds_ZYX, n_seeds = self._find(config)
        if self._numbered is None or self._numbered[0] is not seeds_ZYX:
            self._numbered = None  # so that its memory is free before more is taken
            flooded = self._flooded
            if flooded is not None and flooded.seeds_ZYX is seeds_ZYX:
                numbers = flooded.numbers
            else:
                numbers = raster_numbers(seeds_ZYX, n_seeds, self._threads)
            out_ZYX = np.empty_like(seeds_ZYX)
            take_ids(seeds_ZYX, numbers, out_ZYX, self._threads)
            self._numbered = seeds_ZYX, out_ZYX
        return self._numbered[1]

    def segment(
        self, config: InstancesConfig, out_ZYX: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        """Return the instances as the function of that name does.

        Parameters
        ----------
        out_ZYX
            What to write them into; by default a new array.
        """
        flooded = self._flood(config)
        if out_ZYX is None:
            out_ZYX = np.empty(flooded.labels_ZYX.shape, np.int32)
        sizes = np.empty(flooded.n_seeds + 1, np.int64)
        sizes[flooded.numbers] = count_voxels(
            flooded.labels_ZYX, flooded.n_seeds, self._threads
        )
        new_ids = renumbering(sizes, config.min_size)[flooded.numbers]
        return take_ids(flooded.labels_ZYX, new_ids, out_ZYX, self._threads)

    def _find(self, config: InstancesConfig) -> tuple[NDArray[np.int32], int]:
        key = (
            config.seed_distance,
            config.seed_depth,
            config.seed_boundary,
            config.seed_mask,
            config.min_seed_size,
        )
        if self._seeds is None or self._seeds[0] != key:
            found = sow(self._maps, config, self._threads, terrain=self._survey(config))
            self._seeds = key, *found
        return self._seeds[1:]

    def _survey(self, config: InstancesConfig) -> Terrain:
        key = (config.seed_boundary, config.seed_mask, config.min_seed_size)
        if self._terrain is None or self._terrain[0] != key:
            self._terrain = None  # so that its memory is free before another is made
            self._terrain = key, survey(self._maps, config, self._threads)
        return self._terrain[1]

    def _flood(self, config: InstancesConfig) -> _Flooded:
        seeds_ZYX, n_seeds = self._find(config)
        levels = foreground_levels(config)
        # Should memory run out on the way, nothing half-made is kept.
        old, self._flooded = self._flooded, None
        new = self._follow(old, seeds_ZYX, n_seeds, levels) if old else None
        if new is None:
            labels_ZYX = seeds_ZYX.copy()
            arrays = enter(self._maps, levels, labels_ZYX, self._threads)
            flood(*arrays, labels_ZYX, self._threads)
            numbers = raster_numbers(seeds_ZYX, n_seeds, self._threads)
            new = _Flooded(seeds_ZYX, numbers, levels, *arrays, labels_ZYX)
        self._flooded = new
        return new

    def _follow(
        self,
        old: _Flooded,
        seeds_ZYX: NDArray[np.int32],
        n_seeds: int,
        levels: Levels,
    ) -> _Flooded | None:
        """Return the old flood, changed in place; None where too much changes."""
        if seeds_ZYX is old.seeds_ZYX:
            if levels == old.levels:
                return old
            names, numbers = np.arange(n_seeds + 1, dtype=np.int32), old.numbers
        else:
            names, numbers = name_seeds(
                old.seeds_ZYX, seeds_ZYX, old.n_seeds, n_seeds, self._threads
            )
        flooded = old.height_ZYX, old.arrivals_ZYX, old.labels_ZYX
        both = old.seeds_ZYX, seeds_ZYX
        changes = compare(self._maps, levels, both, names, flooded, self._threads)
        if sum(map(len, changes)) * _MANY > seeds_ZYX.size:
            return None
        repair(changes, seeds_ZYX, *flooded, self._threads)
        return _Flooded(seeds_ZYX, numbers, levels, *flooded)
