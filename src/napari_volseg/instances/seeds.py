"""Seeds: one piece of confident interior for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box, Size
from napari_volseg.instances.joining import Forest, Graph
from napari_volseg.instances.levels import Levels, check_maps, seed_levels
from napari_volseg.instances.numbering import raster_numbers, renumber
from napari_volseg.instances.peaks import (
    TILE,
    MergedPeaks,
    Orders,
    Rule,
    TilePeaks,
    draw_tile,
    paint_seeds,
    reduce_tile,
    reduce_tiles,
)
from napari_volseg.instances.tiles import (
    map_slabs,
    map_tiles,
    tile_grid,
)
from napari_volseg.processors import default_threads

__all__ = [
    "BlockPeaks",
    "Terrain",
    "find_seeds",
    "peak_rule",
    "reduce_block",
    "seed_heights",
    "sow",
    "survey",
]


_LARGEST_TILE = 1 << 22
"""Voxels; more gained nothing."""


def find_seeds(
    maps_CZYX: NDArray[np.uint8],
    config: InstancesConfig,
    *,
    threads: int | None = None,
    terrain: Terrain | None = None,
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
    terrain
        What `survey` returns for these maps and settings, which saves time.

    Returns
    -------
    NDArray
        Seeds 1…n in raster order of their first voxel, 0 elsewhere; (Z, Y, X).
    """
    threads = threads or default_threads()
    seeds_ZYX, n = sow(check_maps(maps_CZYX), config, threads, terrain=terrain)
    return renumber(seeds_ZYX, raster_numbers(seeds_ZYX, n, threads), threads)


def sow(
    maps_CZYX: NDArray[np.uint8],
    config: InstancesConfig,
    threads: int,
    tile: Size = TILE,
    terrain: Terrain | None = None,
) -> tuple[NDArray[np.int32], int]:
    """Return the seeds, 1…n in any order, and n; `tile` makes no difference."""
    shape = maps_CZYX.shape[1:]
    levels, rule = seed_levels(config), peak_rule(config)
    graphs = None
    if terrain is None:
        heights_ZYX = seed_heights(maps_CZYX, levels, threads)
    else:
        heights_ZYX, graphs, tile = terrain.heights_ZYX, terrain.graphs, terrain.tile
        rule = replace(rule, floor=max(1, levels.distance_min))
    seeds_ZYX = np.empty(shape, np.int32)
    box = Box.whole(shape)
    block = reduce_block(heights_ZYX, box, shape, rule, threads, tile, graphs)
    orders = block.merged.own_orders()
    block.paint(heights_ZYX, orders, len(orders.ids) + 1, seeds_ZYX, threads)
    return seeds_ZYX, block.merged.n_seeds


@dataclass(frozen=True, slots=True)
class Terrain:
    """What does not depend on how far from the outline seeds must be, nor on depth."""

    heights_ZYX: NDArray[np.uint8]
    graphs: list[Graph]
    """Of its tiles."""
    tile: Size


def survey(
    maps_CZYX: NDArray[np.uint8],
    config: InstancesConfig,
    threads: int,
    tile: Size | None = None,
) -> Terrain:
    """Return the terrain of maps, to find seeds again and again.

    It holds for configurations with the same `seed_mask`, `seed_boundary` and
    `min_seed_size`, and takes about 4 bytes a voxel.
    """
    levels = replace(seed_levels(config), distance_min=1)
    heights_ZYX = seed_heights(maps_CZYX, levels, threads)
    box = Box.whole(heights_ZYX.shape)

    def draw(part: Box) -> Graph:
        return draw_tile(
            heights_ZYX[part.slices], part, heights_ZYX.shape, config.min_seed_size
        )

    tile = tile or _large_tile(box, threads)
    graphs = map_tiles(draw, tile_grid(box, tile), threads)
    return Terrain(heights_ZYX, graphs, tile)


def _large_tile(box: Box, threads: int) -> Size:
    """Return the edges of large tiles, of which every thread still has two or more.

    The fewer tiles, the less is left to join at their faces, again for each seed depth
    and distance.
    """
    tile = TILE
    while prod(tile) < _LARGEST_TILE:
        axes = [axis for axis in range(3) if tile[axis] < box.shape[axis]]
        if not axes:
            break
        shortest = min(axes, key=lambda axis: tile[axis])
        z, y, x = (n * 2 if axis == shortest else n for axis, n in enumerate(tile))
        if len(tile_grid(box, (z, y, x))) < 2 * threads:
            break
        tile = (z, y, x)
    return tile


@dataclass(frozen=True, slots=True)
class BlockPeaks:
    """The peaks of a block, which may be a part of a volume."""

    merged: MergedPeaks
    forests: list[Forest]

    def paint(
        self,
        heights_ZYX: NDArray[np.uint8],
        orders: Orders,
        first_id: int,
        seeds_ZYX: NDArray[np.int32],
        threads: int,
    ) -> None:
        """Write the seeds of the block: those ordered, and its tiles' from an id on."""
        outer = self.merged.peaks.box
        tiles = self.merged.tiles
        passed = self.merged.pass_on(orders, first_id)

        def paint(i: int) -> None:
            here = tiles[i].box.within(outer)
            paint_seeds(heights_ZYX[here], self.forests[i], passed[i], seeds_ZYX[here])

        map_tiles(paint, range(len(tiles)), threads)


def reduce_block(
    heights_ZYX: NDArray[np.uint8],
    box: Box,
    shape_ZYX: Sequence[int],
    rule: Rule,
    threads: int,
    tile: Size = TILE,
    graphs: list[Graph] | None = None,
) -> BlockPeaks:
    """Find the peaks of a block of a volume of this shape.

    Parameters
    ----------
    heights_ZYX
        What `seed_heights` returns for the block.
    graphs
        Of its tiles, where they are drawn already.
    """
    parts = tile_grid(box, tile)

    def reduce(i: int) -> tuple[TilePeaks, Forest]:
        part = parts[i]
        here = heights_ZYX[part.within(box)]
        graph = graphs[i] if graphs else draw_tile(here, part, shape_ZYX, rule.min_size)
        return reduce_tile(graph, part, shape_ZYX, rule)

    def read_layers(axis: int, at: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        first = at - 1 - box.start[axis]
        before, after = np.moveaxis(heights_ZYX, axis, 0)[first : first + 2]
        if rule.floor > 1:
            before, after = (
                before * (before >= rule.floor),
                after * (after >= rule.floor),
            )
        return before, after

    reduced = map_tiles(reduce, range(len(parts)), threads)
    tiles = [peaks for peaks, _ in reduced]
    merged = reduce_tiles(tiles, box, shape_ZYX, read_layers, rule)
    return BlockPeaks(merged, [forest for _, forest in reduced])


def peak_rule(config: InstancesConfig) -> Rule:
    """Return `seed_depth` as a difference of uint8, 256 for never, and the size."""
    depth = 256 if config.seed_depth > 1 else round(255 * config.seed_depth)
    return Rule(depth, config.min_seed_size)


def seed_heights(
    maps_CZYX: NDArray[np.uint8], levels: Levels, threads: int
) -> NDArray[np.uint8]:
    """Return the distance where a seed may be, 0 elsewhere."""
    heights_ZYX = np.empty(maps_CZYX.shape[1:], np.uint8)

    def fill(start: int, stop: int) -> None:
        _seed_heights(
            maps_CZYX[:, start:stop],
            levels.mask_min,
            levels.boundary_max,
            levels.distance_min,
            heights_ZYX[start:stop],
        )

    map_slabs(fill, len(heights_ZYX), threads)
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
