"""Heights as a graph of cells: cubes of 2 × 2 × 2 voxels.

The voxels of a cell all touch one another, so that above any level they are one
piece, and two cells touch where the nearest voxels of both do. So the graph of the
cells has the components of the 26-connected voxels with an eighth of the nodes.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.instances.joining import Graph

__all__ = ["make_graph", "n_cells", "paint", "touching_edges"]

Heights = NDArray[np.uint8]
Ids = NDArray[np.int32]


def n_cells(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the number of cells of a tile along z, y and x."""
    z, y, x = ((n + 1) // 2 for n in shape)
    return z, y, x


def make_graph(
    heights_ZYX: Heights, min_size: int, open_sides: NDArray[np.bool_]
) -> Graph:
    """Return the cells of a tile as nodes in raster order.

    Parameters
    ----------
    heights_ZYX
        Heights of the tile; 0 is no node.
    min_size
        As in `join`: from 2 on, voxels are counted.
    open_sides
        (3, 2): whether the volume goes on before and after the tile; cells there
        are the frontier.
    """
    padded = np.zeros([2 * c + 4 for c in n_cells(heights_ZYX.shape)], np.uint8)
    z, y, x = heights_ZYX.shape
    padded[2 : z + 2, 2 : y + 2, 2 : x + 2] = heights_ZYX
    births, is_frontier, edges, edge_ends, voxels, voxel_ends = _make_graph(
        padded, min_size > 1, open_sides
    )
    none = np.zeros(births.size, np.uint8)
    return Graph(
        births,
        births if min_size <= 1 else none,
        none.astype(np.bool_),
        is_frontier,
        edges,
        edge_ends,
        voxels,
        voxel_ends,
    )


@njit(nogil=True, cache=True)
def _side(h: Heights, z: int, y: int, x: int, dz: int, dy: int, dx: int) -> int:
    """Return the highest voxel of the cell at a voxel that faces a direction."""
    z0, z1 = (z, z + 1) if dz == 0 else ((z, z) if dz < 0 else (z + 1, z + 1))
    y0, y1 = (y, y + 1) if dy == 0 else ((y, y) if dy < 0 else (y + 1, y + 1))
    x0, x1 = (x, x + 1) if dx == 0 else ((x, x) if dx < 0 else (x + 1, x + 1))
    one = max(max(h[z0, y0, x0], h[z0, y0, x1]), max(h[z0, y1, x0], h[z0, y1, x1]))
    two = max(max(h[z1, y0, x0], h[z1, y0, x1]), max(h[z1, y1, x0], h[z1, y1, x1]))
    return int(max(one, two))


@njit(nogil=True, cache=True)
def _make_graph(
    h: Heights, with_voxels: bool, open_sides: NDArray[np.bool_]
) -> tuple[
    Heights,
    NDArray[np.bool_],
    NDArray[np.int32],
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.int64],
]:
    n_z, n_y, n_x = (h.shape[0] - 4) // 2, (h.shape[1] - 4) // 2, (h.shape[2] - 4) // 2
    births = np.zeros(n_z * n_y * n_x, np.uint8)
    is_frontier = np.zeros(births.size, np.bool_)
    weights = np.zeros((births.size, 13), np.uint8)
    edge_ends = np.zeros(258, np.int64)
    voxel_ends = np.zeros(258, np.int64)
    for cz in range(n_z):
        at_z = (open_sides[0, 0] and cz == 0) or (open_sides[0, 1] and cz == n_z - 1)
        for cy in range(n_y):
            at_y = at_z
            at_y |= open_sides[1, 0] and cy == 0
            at_y |= open_sides[1, 1] and cy == n_y - 1
            for cx in range(n_x):
                z, y, x = 2 * cz + 2, 2 * cy + 2, 2 * cx + 2
                birth = _side(h, z, y, x, 0, 0, 0)
                if birth == 0:
                    continue
                node = (cz * n_y + cy) * n_x + cx
                births[node] = birth
                at_x = at_y
                at_x |= open_sides[2, 0] and cx == 0
                at_x |= open_sides[2, 1] and cx == n_x - 1
                is_frontier[node] = at_x
                if with_voxels:
                    for i in range(8):
                        v = h[z + (i >> 2), y + ((i >> 1) & 1), x + (i & 1)]
                        voxel_ends[v] += 1
                k = 0
                for dz in range(2):
                    for dy in range(-1 if dz else 0, 2):
                        for dx in range(-1 if dz or dy else 1, 2):
                            mine = _side(h, z, y, x, dz, dy, dx)
                            if mine:
                                theirs = _side(
                                    h,
                                    z + 2 * dz,
                                    y + 2 * dy,
                                    x + 2 * dx,
                                    -dz,
                                    -dy,
                                    -dx,
                                )
                                weight = min(mine, theirs)
                                weights[node, k] = weight
                                edge_ends[weight] += 1
                            k += 1
    edge_ends[0] = voxel_ends[0] = 0
    for level in range(256, -1, -1):
        edge_ends[level] += edge_ends[level + 1]
        voxel_ends[level] += voxel_ends[level + 1]
    edges = np.empty((edge_ends[1], 2), np.int32)
    voxels = np.empty((voxel_ends[1], 2), np.int32)
    edge_at, voxel_at = edge_ends[1:].copy(), voxel_ends[1:].copy()
    steps = np.empty(13, np.int64)
    k = 0
    for dz in range(2):
        for dy in range(-1 if dz else 0, 2):
            for dx in range(-1 if dz or dy else 1, 2):
                steps[k] = (dz * n_y + dy) * n_x + dx
                k += 1
    for cz in range(n_z):
        for cy in range(n_y):
            for cx in range(n_x):
                node = (cz * n_y + cy) * n_x + cx
                if births[node] == 0:
                    continue
                for k in range(13):
                    weight = weights[node, k]
                    if weight:
                        edges[edge_at[weight], 0] = node
                        edges[edge_at[weight], 1] = node + steps[k]
                        edge_at[weight] += 1
                if with_voxels:
                    for i in range(8):
                        v = h[
                            2 * cz + 2 + (i >> 2),
                            2 * cy + 2 + ((i >> 1) & 1),
                            2 * cx + 2 + (i & 1),
                        ]
                        if v:
                            voxels[voxel_at[v], 0] = node
                            voxels[voxel_at[v], 1] = 1
                            voxel_at[v] += 1
    return births, is_frontier, edges, edge_ends, voxels, voxel_ends


def touching_edges(
    before_YX: Heights, after_YX: Heights, ids_before: Ids, ids_after: Ids
) -> Ids:
    """Return the edges between the cells on either side of a plane.

    Parameters
    ----------
    before_YX, after_YX
        Heights of the two layers of voxels that touch.
    ids_before, ids_after
        Nodes of the cells behind them, two by two voxels each.

    Returns
    -------
    NDArray
        (E, 3): node before, node after, weight.
    """
    y, x = ids_before.shape
    padded = np.zeros((2, 2 * y + 4, 2 * x + 4), np.uint8)
    for layer, heights in zip(padded, (before_YX, after_YX), strict=True):
        layer[2 : heights.shape[0] + 2, 2 : heights.shape[1] + 2] = heights
    return _touching_edges(padded[0], padded[1], ids_before, ids_after)


@njit(nogil=True, cache=True)
def _touching_edges(
    before: Heights, after: Heights, ids_before: Ids, ids_after: Ids
) -> Ids:
    edges = np.empty((9 * ids_before.size, 3), np.int32)
    n = 0
    for cy in range(ids_before.shape[0]):
        for cx in range(ids_before.shape[1]):
            y, x = 2 * cy + 2, 2 * cx + 2
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    mine = 0
                    for i in range(1 if dy > 0 else 0, 1 if dy < 0 else 2):
                        for j in range(1 if dx > 0 else 0, 1 if dx < 0 else 2):
                            mine = max(mine, before[y + i, x + j])
                    if mine == 0:
                        continue
                    theirs = 0
                    for i in range(1 if dy < 0 else 0, 1 if dy > 0 else 2):
                        for j in range(1 if dx < 0 else 0, 1 if dx > 0 else 2):
                            height = after[y + 2 * dy + i, x + 2 * dx + j]
                            theirs = max(theirs, height)
                    if theirs:
                        edges[n, 0] = ids_before[cy, cx]
                        edges[n, 1] = ids_after[cy + dy, cx + dx]
                        edges[n, 2] = min(mine, theirs)
                        n += 1
    return edges[:n].copy()


def paint(
    heights_ZYX: Heights, node_ids: Ids, node_levels: Heights, labels_ZYX: Ids
) -> None:
    """Write the id of its cell into every voxel that reaches the level of its seed."""
    _paint(heights_ZYX, node_ids, node_levels, labels_ZYX)


@njit(nogil=True, cache=True)
def _paint(h: Heights, node_ids: Ids, node_levels: Heights, labels: Ids) -> None:
    n_y, n_x = (h.shape[1] + 1) // 2, (h.shape[2] + 1) // 2
    for z in range(h.shape[0]):
        for y in range(h.shape[1]):
            row = ((z >> 1) * n_y + (y >> 1)) * n_x
            for x in range(h.shape[2]):
                node = row + (x >> 1)
                level = node_levels[node]
                inside = (level > 0) & (h[z, y, x] >= level)
                labels[z, y, x] = node_ids[node] if inside else 0
