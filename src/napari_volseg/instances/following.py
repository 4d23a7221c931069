"""Instances that follow their thresholds: what a change leaves as it is, is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.changes import compare, name_seeds
from napari_volseg.instances.levels import Levels, check_maps, foreground_levels
from napari_volseg.instances.numbering import count_voxels, renumbering, take_ids
from napari_volseg.instances.repairing import repair
from napari_volseg.instances.seeds import Terrain, find_seeds, survey
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
    n_seeds: int
    levels: Levels
    height_ZYX: NDArray[np.uint8]
    arrivals_ZYX: NDArray[np.int32]
    labels_ZYX: NDArray[np.int32]
    """By id of the seed, small instances included."""


class Follower:
    """Makes the instances of the same maps again and again.

    They are exactly those of `segment`, whatever was asked before; what thresholds
    leave as it was is kept, so that a small change of one takes a small part of the
    time. It holds 21 bytes a voxel beside the maps, and is for one thread at a time.

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
        self._flooded: _Flooded | None = None

    def find_seeds(self, config: InstancesConfig) -> NDArray[np.int32]:
        """Return the seeds as the function of that name does; do not write them.

        Thresholds that do not concern seeds give the very same array again.
        """
        return self._find(config)[0]

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
        sizes = count_voxels(flooded.labels_ZYX, flooded.n_seeds, self._threads)
        new_ids = renumbering(sizes, config.min_size)
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
            seeds_ZYX = find_seeds(
                self._maps,
                config,
                threads=self._threads,
                terrain=self._survey(config),
            )
            self._seeds = key, seeds_ZYX, int(seeds_ZYX.max(initial=0))
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
            new = _Flooded(seeds_ZYX, n_seeds, levels, *arrays, labels_ZYX)
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
            names = np.arange(n_seeds + 1, dtype=np.int32)
        else:
            names = name_seeds(old.seeds_ZYX, seeds_ZYX, old.n_seeds, self._threads)
        flooded = old.height_ZYX, old.arrivals_ZYX, old.labels_ZYX
        both = old.seeds_ZYX, seeds_ZYX
        changes = compare(self._maps, levels, both, names, flooded, self._threads)
        if sum(map(len, changes)) * _MANY > seeds_ZYX.size:
            return None
        repair(changes, seeds_ZYX, *flooded, self._threads)
        return _Flooded(seeds_ZYX, n_seeds, levels, *flooded)
