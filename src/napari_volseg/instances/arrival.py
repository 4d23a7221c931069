"""When a flood reaches each voxel, tile by tile.

A seed is reached at its own height. Any other voxel is reached from a face neighbour
at the level of the neighbour or at its own height, whichever is higher; at an equal
level, one round after the neighbour. Level and round make one number, the *arrival*:
level × 2²³ + round + 1. Every voxel has the least arrival that its neighbours allow.

An arrival is greater than that of the neighbour it comes from, so these equations have
one solution only. Whatever order tiles are flooded in, however often, by how many
threads and from whatever too late arrivals: once no voxel can be reached earlier from
its neighbours, the arrivals are those of the whole volume.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.instances.tiles import map_tiles, tile_grid

__all__ = ["TILE", "WALL", "find_arrivals", "first_arrival"]

TILE: Size = (32, 32, 64)
"""A tile and what is noted of it fit the cache of a processor."""

Arrivals = NDArray[np.int32]
Heights = NDArray[np.uint8]

WALL = 0
"""Where no flood goes; arrivals are at least 1."""
_SHIFT = 23
_ROUND = (1 << _SHIFT) - 1
# Items per link of a bucket.
_LINK = 1024


def first_arrival(height: int) -> int:
    """Return the arrival at a seed."""
    return (height << _SHIFT) + 1


def find_arrivals(
    height_ZYX: Heights, arrivals_ZYX: Arrivals, threads: int, tile: Size = TILE
) -> None:
    """Let the flood run, in place.

    Parameters
    ----------
    height_ZYX
        Heights, uint8.
    arrivals_ZYX
        On entry `WALL` outside the mask, `first_arrival` at seeds, and elsewhere
        -1 - height, which stands for never.
    """
    boxes = tile_grid(Box.whole(height_ZYX.shape), tile)
    grid = [-(-n // t) for n, t in zip(height_ZYX.shape, tile, strict=True)]
    is_new = np.ones(len(boxes), np.bool_)
    is_due = np.ones(len(boxes), np.bool_)
    steps = (grid[1] * grid[2], grid[2], 1)

    def visit(i: int) -> None:
        is_due[i] = False
        improved = visit_tile(height_ZYX, arrivals_ZYX, boxes[i], bool(is_new[i]))
        is_new[i] = False
        for axis, step in enumerate(steps):
            if improved[2 * axis]:
                is_due[i - step] = True
            if improved[2 * axis + 1]:
                is_due[i + step] = True

    while is_due.any():
        map_tiles(visit, np.flatnonzero(is_due).tolist(), threads)


def visit_tile(
    height_ZYX: Heights, arrivals_ZYX: Arrivals, box: Box, is_new: bool
) -> NDArray[np.bool_]:
    """Flood a tile from its seeds and from around it.

    Returns
    -------
    NDArray
        Whether voxels before and after it along z, y and x can be reached earlier.
    """
    (z, y, x), (n_z, n_y, n_x) = box.start, box.shape
    return _visit(
        height_ZYX, arrivals_ZYX, z, y, x, n_z, n_y, n_x, is_new,
        *_buffers((n_z + 2) * (n_y + 2) * (n_x + 2)),
    )  # fmt: skip


def _buffers(size: int) -> tuple[Heights, Arrivals, Arrivals, Arrivals]:
    """Return heights, arrivals, pool and links for a tile, those of the last one.

    Memory that was touched before is many times faster than what is new.
    """
    kept: tuple[Heights, Arrivals, Arrivals, Arrivals] | None
    kept = getattr(_kept, "buffers", None)
    if kept is None or len(kept[0]) != size:
        # A voxel can wait once for each neighbour, twice over. Links are used again,
        # so most of the pool is never touched.
        n_links = 16 * size // _LINK + 2 * 256 + 1
        kept = _kept.buffers = (
            np.empty(size, np.uint8),
            np.empty(size, np.int32),
            np.empty(n_links * _LINK, np.int32),
            np.empty(n_links, np.int32),
        )
    return kept


_kept = threading.local()


@njit(nogil=True, cache=True)
def _next(arrival: int, height: int) -> int:
    """Return the arrival at a voxel of this height from a neighbour."""
    return max((height << _SHIFT) + 1, arrival + 1)


@njit(nogil=True, cache=True)
def _push(
    voxel: int,
    level: int,
    pool: NDArray[np.int32],
    after: NDArray[np.int32],
    tail: NDArray[np.int32],
    links: NDArray[np.int32],
) -> None:
    """Append a voxel to the bucket of a level, a chain of links of the pool."""
    at = tail[level] + 1
    if at & (_LINK - 1) == 0:
        at = _add_link(at, level, after, links)
    pool[at] = voxel
    tail[level] = at


@njit(nogil=True, cache=True)
def _add_link(
    at: int, level: int, after: NDArray[np.int32], links: NDArray[np.int32]
) -> int:
    """Chain a link to a bucket; return where it starts.

    `links` holds the first link of each level, then a free one that was used before,
    -1 for none, then how many were ever used.
    """
    link = links[256]
    if link >= 0:
        links[256] = after[link]
    else:
        link = links[257]
        links[257] += 1
    after[link] = -1
    if at == 0:
        links[level] = link
    else:
        after[at // _LINK - 1] = link
    return int(link * _LINK)


@njit(nogil=True, cache=True)
def _flood(
    steps: tuple[int, int, int, int, int, int],
    h: Heights,
    t: Arrivals,
    pool: NDArray[np.int32],
    after: NDArray[np.int32],
    tail: NDArray[np.int32],
    links: NDArray[np.int32],
) -> None:
    """Empty the buckets, lowest first, and fill those of what is reached from there.

    All in one function, because calls with arrays count references in the loop.
    """
    d0, d1, d2, d3, d4, d5 = steps
    lowest = np.zeros(64, np.int32)
    for bits in range(1, 64):
        k = 0
        while not bits >> k & 1:
            k += 1
        lowest[bits] = steps[k]
    for level in range(256):
        link = links[level]
        while link >= 0:
            at = link * _LINK - 1
            # The bucket grows while it is emptied.
            while True:
                at += 1
                v = pool[at]
                came = t[v]
                # Otherwise it was reached earlier since.
                if came >> _SHIFT == level:
                    after_it = came + 1
                    t0, t1, t2 = t[v + d0], t[v + d1], t[v + d2]
                    t3, t4, t5 = t[v + d3], t[v + d4], t[v + d5]
                    # Without branches: no processor could foretell them.
                    unseen = (t0 < 0) | ((t1 < 0) << 1) | ((t2 < 0) << 2)
                    unseen |= ((t3 < 0) << 3) | ((t4 < 0) << 4) | ((t5 < 0) << 5)
                    while unseen:
                        u = v + lowest[unseen]
                        unseen &= unseen - 1
                        # Of an unseen voxel, there is -1 - height.
                        height = -1 - t[u]
                        t[u] = max((height << _SHIFT) + 1, after_it)
                        to = max(level, height)
                        end = tail[to] + 1
                        if end & (_LINK - 1) == 0:
                            end = _add_link(end, to, after, links)
                        pool[end] = u
                        tail[to] = end
                    late = (t0 > after_it) & (t0 & _ROUND > 1)
                    late |= (t1 > after_it) & (t1 & _ROUND > 1)
                    late |= (t2 > after_it) & (t2 & _ROUND > 1)
                    late |= (t3 > after_it) & (t3 & _ROUND > 1)
                    late |= (t4 > after_it) & (t4 & _ROUND > 1)
                    late |= (t5 > after_it) & (t5 & _ROUND > 1)
                    if late:
                        for step in steps:
                            u = v + step
                            reached = max((int(h[u]) << _SHIFT) + 1, after_it)
                            if reached < t[u]:
                                t[u] = reached
                                to = max(level, int(h[u]))
                                end = tail[to] + 1
                                if end & (_LINK - 1) == 0:
                                    end = _add_link(end, to, after, links)
                                pool[end] = u
                                tail[to] = end
                if at == tail[level] or at & (_LINK - 1) == _LINK - 1:
                    break
            following = after[link]
            after[link] = links[256]
            links[256] = link
            link = following


@njit(nogil=True, cache=True)
def _visit(
    height: Heights,
    arrival: Arrivals,
    z0: int,
    y0: int,
    x0: int,
    n_z: int,
    n_y: int,
    n_x: int,
    is_new: bool,
    h: Heights,
    t: Arrivals,
    pool: NDArray[np.int32],
    after: NDArray[np.int32],
) -> NDArray[np.bool_]:
    row, plane = n_x + 2, (n_x + 2) * (n_y + 2)
    steps = (-plane, -row, -1, 1, row, plane)
    _enter(height, arrival, z0, y0, x0, n_z, n_y, n_x, h, t)

    tail = np.full(256, -1, np.int32)
    links = np.full(258, -1, np.int32)
    links[257] = 0
    if is_new:
        for z in range(1, n_z + 1):
            for y in range(1, n_y + 1):
                for v in range(z * plane + y * row + 1, z * plane + y * row + n_x + 1):
                    if t[v] <= WALL:
                        continue
                    for step in steps:
                        if t[v + step] < WALL:
                            level = t[v] >> _SHIFT
                            _push(v, level, pool, after, tail, links)
                            break
    # From around the tile; nothing is written there.
    for axis in range(3):
        step = (plane, row, 1)[axis]
        n_a, step_a = (n_y, row) if axis == 0 else (n_z, plane)
        n_b, step_b = (n_y, row) if axis == 2 else (n_x, 1)
        n = (n_z, n_y, n_x)[axis]
        for side in range(2):
            start = (n + 1) * step if side else 0
            inward = -step if side else step
            for a in range(1, n_a + 1):
                for b in range(1, n_b + 1):
                    outer = start + a * step_a + b * step_b
                    v = outer + inward
                    came, there = t[outer], t[v]
                    if came > WALL and there != WALL:
                        reached = _next(came, int(h[v]))
                        if there < WALL or reached < there:
                            t[v] = reached
                            level = reached >> _SHIFT
                            _push(v, level, pool, after, tail, links)
                    t[outer] = WALL

    _flood(steps, h, t, pool, after, tail, links)
    return _leave(height, arrival, z0, y0, x0, n_z, n_y, n_x, t)


@njit(nogil=True, cache=True)
def _enter(
    height: Heights,
    arrival: Arrivals,
    z0: int,
    y0: int,
    x0: int,
    n_z: int,
    n_y: int,
    n_x: int,
    h: Heights,
    t: Arrivals,
) -> None:
    """Copy the tile and one voxel around it; beyond the volume there is a wall."""
    row, plane = n_x + 2, (n_x + 2) * (n_y + 2)
    t[:] = WALL
    for z in range(max(z0 - 1, 0), min(z0 + n_z + 1, height.shape[0])):
        for y in range(max(y0 - 1, 0), min(y0 + n_y + 1, height.shape[1])):
            at = (z - z0 + 1) * plane + (y - y0 + 1) * row - x0 + 1
            for x in range(max(x0 - 1, 0), min(x0 + n_x + 1, height.shape[2])):
                h[at + x] = height[z, y, x]
                t[at + x] = arrival[z, y, x]


@njit(nogil=True, cache=True)
def _leave(
    height: Heights,
    arrival: Arrivals,
    z0: int,
    y0: int,
    x0: int,
    n_z: int,
    n_y: int,
    n_x: int,
    t: Arrivals,
) -> NDArray[np.bool_]:
    """Copy the tile back; return which neighbours can be reached earlier from it."""
    row, plane = n_x + 2, (n_x + 2) * (n_y + 2)
    for z in range(n_z):
        for y in range(n_y):
            at = (z + 1) * plane + (y + 1) * row + 1
            for x in range(n_x):
                arrival[z0 + z, y0 + y, x0 + x] = t[at + x]
    improved = np.zeros(6, np.bool_)
    for axis in range(3):
        size_a = n_y if axis == 0 else n_z
        size_b = n_y if axis == 2 else n_x
        for side in range(2):
            edge = ((n_z, n_y, n_x)[axis] - 1) if side else 0
            outside = edge + (1 if side else -1)
            to = (z0, y0, x0)[axis] + outside
            if to < 0 or to >= height.shape[axis]:
                continue
            for a in range(size_a):
                for b in range(size_b):
                    if axis == 0:
                        v = (edge + 1) * plane + (a + 1) * row + b + 1
                        z, y, x = to, y0 + a, x0 + b
                    elif axis == 1:
                        v = (a + 1) * plane + (edge + 1) * row + b + 1
                        z, y, x = z0 + a, to, x0 + b
                    else:
                        v = (a + 1) * plane + (b + 1) * row + edge + 1
                        z, y, x = z0 + a, y0 + b, to
                    came, theirs = t[v], arrival[z, y, x]
                    if came <= WALL or theirs == WALL:
                        continue
                    if theirs < WALL or (
                        theirs > came + 1 and _next(came, int(height[z, y, x])) < theirs
                    ):
                        improved[2 * axis + side] = True
                        break
                if improved[2 * axis + side]:
                    break
    return improved
