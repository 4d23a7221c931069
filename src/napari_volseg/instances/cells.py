"""Heights as a graph of cells: cubes of 2 × 2 × 2 voxels.

The voxels of a cell all touch one another, so that above any level they are one
piece, and two cells touch where the nearest voxels of both do. So the graph of the
cells has the components of the 26-connected voxels with an eighth of the nodes.

Cells that touch over a face have an edge, but of those that touch over an edge or a
corner only the ones that nothing else around it joins: the other cells there touch both
over faces, so it takes no more than that they are as high.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.instances.joining import Graph, climb, sort_by_level

__all__ = ["make_graph", "n_cells", "paint", "touching_edges"]

_CELL = 8
"""Voxels of a cell."""

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
    births_ZYX, lowest_ZYX = _extremes(padded)
    edges, weights, enough = _find_edges(padded, births_ZYX, lowest_ZYX)
    births_ZYX = births_ZYX[:-1, :-1, :-1]
    births = births_ZYX.reshape(-1)
    is_frontier = _frontier(births_ZYX, open_sides)
    roots, edges, weights = climb(births, is_frontier, edges, weights)
    edges, edge_ends = sort_by_level(edges, weights)
    if min_size > 1:
        unless = enough if min_size <= _CELL else np.zeros_like(enough)
        voxels, voxel_ends = _list_voxels(padded, births_ZYX, unless, roots)
    else:
        voxels, voxel_ends = np.empty((0, 2), np.int32), np.zeros(258, np.int64)
    none = np.zeros(births_ZYX.size, np.uint8)
    return Graph(
        births,
        births if min_size <= 1 else none,
        none.astype(np.bool_),
        is_frontier,
        roots,
        edges,
        edge_ends,
        voxels,
        voxel_ends,
    )


@njit(nogil=True, cache=True)
def _extremes(h: Heights) -> tuple[Heights, Heights]:
    """Return the highest and lowest voxel of each cell, with a layer of 0 after all."""
    n_z, n_y, n_x = h.shape[0] - 4, h.shape[1] - 4, h.shape[2] - 4
    highest = np.zeros((n_z // 2 + 1, n_y // 2 + 1, n_x // 2 + 1), np.uint8)
    lowest = np.zeros(highest.shape, np.uint8)
    for z in range(0, n_z, 2):
        for y in range(0, n_y, 2):
            one, two = h[z + 2, y + 2], h[z + 2, y + 3]
            three, four = h[z + 3, y + 2], h[z + 3, y + 3]
            high, low = highest[z // 2, y // 2], lowest[z // 2, y // 2]
            for x in range(n_x // 2):
                i, j = 2 * x + 2, 2 * x + 3
                high[x] = max(
                    max(max(one[i], one[j]), max(two[i], two[j])),
                    max(max(three[i], three[j]), max(four[i], four[j])),
                )
                low[x] = min(
                    min(min(one[i], one[j]), min(two[i], two[j])),
                    min(min(three[i], three[j]), min(four[i], four[j])),
                )
    return highest, lowest


@njit(nogil=True, cache=True)
def _find_edges(
    h: Heights, births: Heights, lowest: Heights
) -> tuple[NDArray[np.int32], Heights, Heights]:
    """Return edges that keep the same cells together above every level.

    All in one function, because calls with arrays count references in the loop.

    Returns
    -------
    edges, weights, enough
        The last is of cells: a voxel up to this height is joined, at its level, to a
        cell that is higher throughout.
    """
    n_z, n_y, n_x = births.shape[0] - 1, births.shape[1] - 1, births.shape[2] - 1
    edges = np.empty((7 * n_z * n_y * n_x, 2), np.int32)
    weights = np.empty(7 * n_z * n_y * n_x, np.uint8)
    enough = np.zeros(n_z * n_y * n_x, np.uint8)
    voxels, cells, least = h.reshape(-1), births.reshape(-1), lowest.reshape(-1)
    # Steps along z, y, x, and z, y again.
    vz, vy = h.shape[1] * h.shape[2], h.shape[2]
    kz, ky = births.shape[1] * births.shape[2], births.shape[2]
    of_voxels = np.array([vz, vy, 1, vz, vy])
    of_cells = np.array([kz, ky, 1, kz])
    of_nodes = np.array([n_y * n_x, n_x, 1, n_y * n_x])
    n = 0
    for cz in range(n_z):
        for cy in range(n_y):
            for cx in range(n_x):
                cell = cz * kz + cy * ky + cx
                here = cells[cell] > 0
                beside = cells[cell + 1] | cells[cell + ky] | cells[cell + ky + 1]
                behind = cells[cell + kz] | cells[cell + kz + 1]
                behind |= cells[cell + kz + ky] | cells[cell + kz + ky + 1]
                if not (here or beside) and not behind:
                    continue
                at = (2 * cz + 2) * vz + (2 * cy + 2) * vy + 2 * cx + 2
                node = (cz * n_y + cy) * n_x + cx
                for axis in range(3):
                    u, v, w = of_voxels[axis], of_voxels[axis + 1], of_voxels[axis + 2]
                    cell_u, cell_v = of_cells[axis], of_cells[axis + 1]
                    # Over the face.
                    if here and cells[cell + cell_u]:
                        i = at + u
                        j = i + u
                        weight = min(
                            max(
                                max(voxels[i], voxels[i + v]),
                                max(voxels[i + w], voxels[i + v + w]),
                            ),
                            max(
                                max(voxels[j], voxels[j + v]),
                                max(voxels[j + w], voxels[j + v + w]),
                            ),
                        )
                        if weight:
                            other = node + of_nodes[axis]
                            edges[n, 0], edges[n, 1], weights[n] = node, other, weight
                            n += 1
                            if least[cell + cell_u]:
                                below = min(weight, least[cell + cell_u] - 1)
                                enough[node] = max(enough[node], below)
                            if least[cell]:
                                below = min(weight, least[cell] - 1)
                                enough[other] = max(enough[other], below)
                    # Over the edge along w, from here or between the two beside it.
                    if (here and cells[cell + cell_u + cell_v]) or (
                        cells[cell + cell_u] and cells[cell + cell_v]
                    ):
                        i = at + u + v
                        a = max(voxels[i], voxels[i + w])
                        b = max(voxels[i + u], voxels[i + u + w])
                        c = max(voxels[i + v], voxels[i + v + w])
                        d = max(voxels[i + u + v], voxels[i + u + v + w])
                        step_u, step_v = of_nodes[axis], of_nodes[axis + 1]
                        if min(a, d) > max(b, c):
                            edges[n, 0], edges[n, 1] = node, node + step_u + step_v
                            weights[n] = min(a, d)
                            n += 1
                        elif min(b, c) > max(a, d):
                            edges[n, 0], edges[n, 1] = node + step_u, node + step_v
                            weights[n] = min(b, c)
                            n += 1
                # Over the corner, the two that hold its highest voxels.
                i = at + vz + vy + 1
                j = i + vz + vy + 1
                v0, v1, v2, v3 = (
                    voxels[i],
                    voxels[i + 1],
                    voxels[i + vy],
                    voxels[i + vz],
                )
                w0, w1, w2, w3 = (
                    voxels[j],
                    voxels[j - 1],
                    voxels[j - vy],
                    voxels[j - vz],
                )
                h0, h1, h2, h3 = max(v0, w0), max(v1, w1), max(v2, w2), max(v3, w3)
                l0, l1, l2, l3 = min(v0, w0), min(v1, w1), min(v2, w2), min(v3, w3)
                far = node + of_nodes[0] + of_nodes[1] + 1
                if l0 > max(h1, max(h2, h3)):
                    edges[n, 0], edges[n, 1], weights[n] = node, far, l0
                    n += 1
                elif l1 > max(h0, max(h2, h3)):
                    edges[n, 0], edges[n, 1], weights[n] = node + 1, far - 1, l1
                    n += 1
                elif l2 > max(h0, max(h1, h3)):
                    edges[n, 0], edges[n, 1] = node + n_x, far - n_x
                    weights[n] = l2
                    n += 1
                elif l3 > max(h0, max(h1, h2)):
                    edges[n, 0], edges[n, 1] = node + of_nodes[0], far - of_nodes[0]
                    weights[n] = l3
                    n += 1
    return edges[:n], weights[:n], enough


@njit(nogil=True, cache=True)
def _list_voxels(
    h: Heights, births: Heights, enough: Heights, roots: Ids
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return roots and numbers of voxels by falling height, as `sort_by_level` does.

    Voxels up to the height that is enough for their cell are left out: others that are
    higher and joined to them at their level are as many as count.
    """
    n_z, n_y, n_x = births.shape
    ends = np.zeros(258, np.int64)
    at = ends
    voxels = np.empty((0, 2), np.int32)
    for is_second in (False, True):
        node = 0
        for cz in range(n_z):
            for cy in range(n_y):
                for cx in range(n_x):
                    least = enough[node]
                    if births[cz, cy, cx] > least:
                        for i in range(8):
                            z, y, x = (
                                2 * cz + (i >> 2),
                                2 * cy + (i >> 1 & 1),
                                2 * cx + (i & 1),
                            )
                            v = h[z + 2, y + 2, x + 2]
                            if v > least:
                                if is_second:
                                    voxels[at[v], 0], voxels[at[v], 1] = roots[node], 1
                                at[v] += 1
                    node += 1
        if not is_second:
            for level in range(256, -1, -1):
                ends[level] += ends[level + 1]
            voxels, at = np.empty((ends[1], 2), np.int32), ends[1:].copy()
    return voxels, ends


@njit(nogil=True, cache=True)
def _frontier(births: Heights, open_sides: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which cells lie at an open side and are not empty, in raster order."""
    n_z, n_y, n_x = births.shape
    is_frontier = np.empty(births.size, np.bool_)
    node = 0
    for z in range(n_z):
        at_z = (z == 0 and open_sides[0, 0]) or (z == n_z - 1 and open_sides[0, 1])
        for y in range(n_y):
            at_y = (y == 0 and open_sides[1, 0]) or (y == n_y - 1 and open_sides[1, 1])
            for x in range(n_x):
                is_frontier[node] = (at_z or at_y) and births[z, y, x] > 0
                node += 1
            for side in range(2):
                x = (n_x - 1) * side
                if open_sides[2, side] and births[z, y, x] > 0:
                    is_frontier[node - n_x + x] = True
    return is_frontier


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
    n_z, n_y, n_x = h.shape
    width = (n_x + 1) // 2
    # Of each voxel of a row: what to write, and what it must be higher than.
    ids, bounds = np.empty(2 * width, np.int32), np.empty(2 * width, np.uint8)
    node = 0
    for z in range(0, n_z, 2):
        for y in range(0, n_y, 2):
            some = False
            for i in range(width):
                # None for level 0: nothing is higher than 255.
                bound = np.uint8(node_levels[node + i] - 1)
                ids[2 * i] = ids[2 * i + 1] = node_ids[node + i]
                bounds[2 * i] = bounds[2 * i + 1] = bound
                some |= bool(bound < 255)
            node += width
            for zz in range(z, min(z + 2, n_z)):
                for yy in range(y, min(y + 2, n_y)):
                    row, out = h[zz, yy], labels[zz, yy]
                    if some:
                        for x in range(n_x):
                            out[x] = ids[x] if row[x] > bounds[x] else 0
                    else:
                        out[:] = 0
