"""Tell apart the peaks of a volume of heights, tile by tile.

Each tile is joined by itself; what may still meet across its faces remains as a small
graph. The graphs of many tiles and the contacts at their faces are joined like a tile
once more, to one of a block, and those of blocks to one of the volume. The result does
not depend on the division: `joining` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.instances.cells import make_graph, n_cells, paint, touching_edges
from napari_volseg.instances.joining import (
    Forest,
    Graph,
    Joined,
    climb,
    join,
    label_nodes,
    sort_by_level,
)

__all__ = [
    "TILE",
    "MergedPeaks",
    "Orders",
    "ReadLayers",
    "Rule",
    "TilePeaks",
    "draw_tile",
    "paint_seeds",
    "reduce_tile",
    "reduce_tiles",
]

TILE: Size = (64, 64, 128)
"""Even numbers, so that no cell lies in two tiles."""

Heights = NDArray[np.uint8]
Ids = NDArray[np.int32]
ReadLayers = Callable[[int, int], tuple[Heights, Heights]]
"""Returns the layers of heights before and after a plane of an axis."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What makes a peak; see `joining`."""

    depth: int
    min_size: int
    floor: int = 1
    """Where heights are lower, there is nothing."""


@dataclass(frozen=True, slots=True)
class TilePeaks:
    """What a tile or block knows of its peaks, and what others may have to say in."""

    box: Box
    seeds: Ids
    """(S, 2) node and level: seeds that lie inside and are final."""
    nodes: Ids
    """Nodes of the tile that take part when tiles are joined."""
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
    """The seeds of one tile: the component of a node at a level gets an id."""

    seeds: Ids
    ids: Ids


@dataclass(frozen=True, slots=True)
class MergedPeaks:
    """Tiles joined to one."""

    peaks: TilePeaks
    tiles: Sequence[TilePeaks]
    forest: Forest

    @property
    def n_seeds(self) -> int:
        """Number of seeds that are final in it or in its tiles."""
        return sum(len(tile.seeds) for tile in (self.peaks, *self.tiles))

    def own_orders(self) -> Orders:
        """Return what to order where nothing lies outside: ids from 1 on."""
        n = len(self.peaks.seeds)
        return Orders(self.peaks.seeds, np.arange(1, n + 1, dtype=np.int32))

    def pass_on(self, orders: Orders, first_id: int) -> list[Orders]:
        """Return the orders of each tile.

        Parameters
        ----------
        orders
            For its own nodes; the seeds that are final in it are among them.
        first_id
            The id of the first seed that is final in a tile; others follow.
        """
        ids, levels = label_nodes(self.forest, orders.seeds, orders.ids)
        end = first_id
        passed, start = [], 0
        for tile in self.tiles:
            here = slice(start, start + len(tile.nodes))
            chosen = ids[here] > 0
            shared = np.stack([tile.nodes, levels[here].astype(np.int32)], axis=1)
            own = np.arange(end, end + len(tile.seeds), dtype=np.int32)
            passed.append(
                Orders(
                    np.concatenate([tile.seeds, shared[chosen]]),
                    np.concatenate([own, ids[here][chosen]]),
                )
            )
            start, end = start + len(tile.nodes), end + len(tile.seeds)
        return passed


def draw_tile(
    heights_ZYX: Heights, box: Box, shape_ZYX: Sequence[int], min_size: int
) -> Graph:
    """Return the cells of a tile of a volume of this shape as a graph."""
    return make_graph(heights_ZYX, min_size, _open_sides(box, shape_ZYX))


def reduce_tile(
    graph: Graph, box: Box, shape_ZYX: Sequence[int], rule: Rule
) -> tuple[TilePeaks, Forest]:
    """Join the graph of `draw_tile`."""
    is_there = graph.births >= rule.floor
    graph = replace(graph, is_frontier=graph.is_frontier & is_there)
    joined = join(graph, rule.depth, rule.min_size, rule.floor)
    cells_ZYX = np.where(is_there, np.arange(graph.births.size), -1)
    cells_ZYX = cells_ZYX.astype(np.int32).reshape(n_cells(box.shape))
    faces = {
        (axis, side): np.asarray(cells_ZYX.take(-side, axis=axis))
        for axis, side in np.argwhere(_open_sides(box, shape_ZYX)).tolist()
    }
    return _reduce(graph, joined, box, faces), joined.forest


def reduce_tiles(
    tiles: Sequence[TilePeaks],
    box: Box,
    shape_ZYX: Sequence[int],
    read_layers: ReadLayers,
    rule: Rule,
) -> MergedPeaks:
    """Join the tiles of a box of a volume of this shape.

    Parameters
    ----------
    tiles
        Tiles of a regular grid that covers the box.
    read_layers
        Called with an axis and a position on it, in voxels of the volume, for every
        plane between tiles; returns the layers of the box on either side.
    """
    starts = np.cumsum([0, *(len(tile.nodes) for tile in tiles)])
    sides = _gather_faces(tiles, starts, box)
    edges, voxels = [np.empty((0, 3), np.int32)], [np.empty((0, 3), np.int32)]
    for tile, start in zip(tiles, starts.tolist(), strict=False):
        edges.append(tile.edges + np.array([start, start, 0], np.int32))
        voxels.append(tile.voxels + np.array([start, 0, 0], np.int32))
    faces = {}
    for (axis, at), (before, after) in sides.items():
        if at == box.start[axis]:
            faces[axis, 0] = after
        elif at == box.stop[axis]:
            faces[axis, 1] = before
        else:
            layers = read_layers(axis, at)
            edges.append(touching_edges(*layers, before, after))
    births = np.concatenate([np.empty(0, np.uint8), *(t.births for t in tiles)])
    is_frontier = np.zeros(births.size, np.bool_)
    for face in faces.values():
        is_frontier[face[face >= 0]] = True
    tops = np.concatenate([np.empty(0, np.uint8), *(t.tops for t in tiles)])
    is_split = np.concatenate([np.empty(0, np.bool_), *(t.is_split for t in tiles)])
    all_edges, all_voxels = np.concatenate(edges), np.concatenate(voxels)
    roots, pairs, weights = climb(
        births,
        is_frontier | is_split | (tops > 0),
        np.ascontiguousarray(all_edges[:, :2]),
        all_edges[:, 2].astype(np.uint8),
    )
    graph = Graph(
        births,
        tops,
        is_split,
        is_frontier,
        roots,
        *sort_by_level(pairs, weights),
        *sort_by_level(all_voxels[:, ::2], all_voxels[:, 1]),
    )
    joined = join(graph, rule.depth, rule.min_size, rule.floor)
    return MergedPeaks(_reduce(graph, joined, box, faces), tiles, joined.forest)


def paint_seeds(
    heights_ZYX: Heights, forest: Forest, orders: Orders, labels_ZYX: Ids
) -> None:
    """Write the seeds of a tile."""
    paint(heights_ZYX, *label_nodes(forest, orders.seeds, orders.ids), labels_ZYX)


def _open_sides(box: Box, shape_ZYX: Sequence[int]) -> NDArray[np.bool_]:
    """Return (3, 2): whether the volume goes on before and after a box."""
    sides = zip(box.start, box.stop, shape_ZYX, strict=True)
    return np.array([(a > 0, b < n) for a, b, n in sides])


def _reduce(
    graph: Graph, joined: Joined, box: Box, faces: dict[tuple[int, int], Ids]
) -> TilePeaks:
    """Return what is left of a joined graph; `faces` hold its nodes."""
    frontier = np.flatnonzero(graph.is_frontier).astype(np.int32)
    ranks = np.full(graph.births.size + 1, -1, np.int32)  # the last one is for -1
    ranks[frontier] = np.arange(len(frontier))
    nodes, tops, split, at, levels = joined.pendants.T
    places = np.arange(len(frontier), len(frontier) + len(nodes), dtype=np.int32)
    edges, voxels = joined.edges.copy(), joined.voxels.copy()
    edges[:, :2] = ranks[edges[:, :2]]
    voxels[:, 0] = ranks[voxels[:, 0]]
    births = np.maximum(tops, levels).astype(np.uint8)
    return TilePeaks(
        box,
        joined.seeds,
        np.concatenate([frontier, nodes]),
        np.concatenate([graph.births[frontier], births]),
        np.concatenate([graph.tops[frontier], tops.astype(np.uint8)]),
        np.concatenate([graph.is_split[frontier], split != 0]),
        np.concatenate([edges, np.stack([places, ranks[at], levels], axis=1)]),
        voxels,
        {side: ranks[face] for side, face in faces.items()},
    )


def _gather_faces(
    tiles: Sequence[TilePeaks], starts: NDArray[np.int64], box: Box
) -> dict[tuple[int, int], tuple[Ids, Ids]]:
    """Return, for every plane at tiles, the nodes of the cells before and after it."""
    sides: dict[tuple[int, int], tuple[Ids, Ids]] = {}
    for tile, start in zip(tiles, starts.tolist(), strict=False):
        for (axis, side), places in tile.faces.items():
            at = tile.box.stop[axis] if side else tile.box.start[axis]
            others = [a for a in range(3) if a != axis]
            if (axis, at) not in sides:
                size = [(box.shape[a] + 1) // 2 for a in others]
                empty = np.full(size, -1, np.int32)
                sides[axis, at] = empty, empty.copy()
            where = tuple(
                slice(
                    (tile.box.start[a] - box.start[a]) // 2,
                    (tile.box.stop[a] - box.start[a] + 1) // 2,
                )
                for a in others
            )
            nodes = np.where(places < 0, -1, places + start)
            sides[axis, at][0 if side else 1][where] = nodes
    return sides
