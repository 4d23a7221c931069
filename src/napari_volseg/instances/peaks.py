"""Tell apart the peaks of a volume of heights, tile by tile.

Each tile is joined by itself; what may still meet across its faces remains as a small
graph. The graphs of all tiles and the contacts at their faces are joined once more.
The result does not depend on the tiles: `joining` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.instances.cells import make_graph, n_cells, paint, touching_edges
from napari_volseg.instances.joining import (
    Forest,
    Graph,
    join,
    label_nodes,
    sort_by_level,
)

__all__ = ["TILE", "Orders", "TilePeaks", "join_tiles", "paint_seeds", "reduce_tile"]

TILE: Size = (64, 64, 128)
"""Even numbers, so that no cell lies in two tiles."""

Heights = NDArray[np.uint8]
Ids = NDArray[np.int32]
ReadLayers = Callable[[int, int], tuple[Heights, Heights]]
"""Returns the layers of heights before and after a plane of an axis."""


@dataclass(frozen=True, slots=True)
class TilePeaks:
    """What a tile knows of its peaks, and what others may have to say in."""

    box: Box
    seeds: Ids
    """(S, 2) cell and level: seeds that lie inside the tile and are final."""
    nodes: Ids
    """Cells that take part in the joining of tiles."""
    births: Heights
    tops: Heights
    is_split: NDArray[np.bool_]
    edges: Ids
    """(E, 3) of positions in `nodes`, and levels."""
    voxels: Ids
    """(V, 3) position in `nodes`, level, number."""
    faces: dict[tuple[int, int], Ids]
    """Positions in `nodes` of the cells on each open face, -1 for none."""


@dataclass(frozen=True, slots=True)
class Orders:
    """The seeds of one tile: the component of a cell at a level gets an id."""

    seeds: Ids
    ids: Ids


def reduce_tile(
    heights_ZYX: Heights, box: Box, shape_ZYX: Sequence[int], depth: int, min_size: int
) -> tuple[TilePeaks, Forest]:
    """Join the cells of a tile of a volume of this shape."""
    open_sides = np.array(
        [(a > 0, b < n) for a, b, n in zip(box.start, box.stop, shape_ZYX, strict=True)]
    )
    graph = make_graph(heights_ZYX, min_size, open_sides)
    joined = join(graph, depth, min_size)
    frontier = np.flatnonzero(graph.is_frontier).astype(np.int32)
    n_frontier, n_pendants = len(frontier), len(joined.pendants)
    ranks = np.full(graph.births.size, -1, np.int32)
    ranks[frontier] = np.arange(n_frontier)
    cells, tops, split, at, level = joined.pendants.T
    pendants = np.arange(n_frontier, n_frontier + n_pendants, dtype=np.int32)
    edges = joined.edges.copy()
    edges[:, :2] = ranks[edges[:, :2]]
    voxels = joined.voxels.copy()
    voxels[:, 0] = ranks[voxels[:, 0]]
    front_tops = graph.tops[frontier]
    faces: dict[tuple[int, int], Ids] = {}
    ranks_ZYX = ranks.reshape(n_cells(box.shape))
    for axis, side in np.argwhere(open_sides).tolist():
        faces[axis, side] = np.asarray(ranks_ZYX.take(-side, axis=axis))
    peaks = TilePeaks(
        box,
        joined.seeds,
        np.concatenate([frontier, cells]),
        np.concatenate([graph.births[frontier], np.maximum(tops, level)]).astype(
            np.uint8
        ),
        np.concatenate([front_tops, tops]).astype(np.uint8),
        np.concatenate([np.zeros(n_frontier, np.bool_), split != 0]),
        np.concatenate([edges, np.stack([pendants, ranks[at], level], axis=1)]),
        voxels,
        faces,
    )
    return peaks, joined.forest


def join_tiles(
    tiles: Sequence[TilePeaks],
    shape_ZYX: Sequence[int],
    read_layers: ReadLayers,
    depth: int,
    min_size: int,
) -> tuple[list[Orders], int]:
    """Return the seeds of each tile and how many there are in all."""
    starts = np.cumsum([0, *(len(tile.nodes) for tile in tiles)]).astype(np.int64)
    edges = [
        tile.edges + np.array([start, start, 0], np.int32)
        for tile, start in zip(tiles, starts, strict=False)
    ]
    edges += _contacts(tiles, starts, shape_ZYX, read_layers)
    voxels = [
        tile.voxels + np.array([start, 0, 0], np.int32)
        for tile, start in zip(tiles, starts, strict=False)
    ]
    all_edges = np.concatenate([np.empty((0, 3), np.int32), *edges])
    all_voxels = np.concatenate([np.empty((0, 3), np.int32), *voxels])
    births = np.concatenate([np.empty(0, np.uint8), *(t.births for t in tiles)])
    graph = Graph(
        births,
        np.concatenate([np.empty(0, np.uint8), *(t.tops for t in tiles)]),
        np.concatenate([np.empty(0, np.bool_), *(t.is_split for t in tiles)]),
        np.zeros(births.size, np.bool_),
        *sort_by_level(all_edges[:, :2], all_edges[:, 2]),
        *sort_by_level(all_voxels[:, ::2], all_voxels[:, 1]),
    )
    joined = join(graph, depth, min_size)
    n = len(joined.seeds)
    ids, levels = label_nodes(
        joined.forest, joined.seeds, np.arange(1, n + 1, dtype=np.int32)
    )
    orders = []
    for tile, start, stop in zip(tiles, starts[:-1], starts[1:], strict=True):
        here_ids, here_levels = ids[start:stop], levels[start:stop]
        chosen = here_ids > 0
        shared = np.stack([tile.nodes[chosen], here_levels[chosen]], axis=1)
        own = np.arange(n + 1, n + 1 + len(tile.seeds), dtype=np.int32)
        n += len(tile.seeds)
        orders.append(
            Orders(
                np.concatenate([tile.seeds, shared.astype(np.int32)]),
                np.concatenate([own, here_ids[chosen]]),
            )
        )
    return orders, n


def paint_seeds(
    heights_ZYX: Heights, forest: Forest, orders: Orders, labels_ZYX: Ids
) -> None:
    """Write the seeds of a tile."""
    paint(heights_ZYX, *label_nodes(forest, orders.seeds, orders.ids), labels_ZYX)


def _contacts(
    tiles: Sequence[TilePeaks],
    starts: NDArray[np.int64],
    shape_ZYX: Sequence[int],
    read_layers: ReadLayers,
) -> list[Ids]:
    """Return the edges across every plane between tiles."""
    sides: dict[tuple[int, int], tuple[Ids, Ids]] = {}
    for tile, start in zip(tiles, starts, strict=False):
        for (axis, side), ranks in tile.faces.items():
            at = tile.box.stop[axis] if side else tile.box.start[axis]
            others = [a for a in range(3) if a != axis]
            if (axis, at) not in sides:
                size = [(shape_ZYX[a] + 1) // 2 for a in others]
                empty = np.full(size, -1, np.int32)
                sides[axis, at] = empty, empty.copy()
            corner = tuple(
                slice(tile.box.start[a] // 2, (tile.box.stop[a] + 1) // 2)
                for a in others
            )
            ids = np.where(ranks < 0, -1, ranks + start)
            sides[axis, at][0 if side else 1][corner] = ids
    return [
        touching_edges(*read_layers(axis, at), before, after)
        for (axis, at), (before, after) in sides.items()
    ]
