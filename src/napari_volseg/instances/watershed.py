"""Seeded watershed on uint8 heights by a queue of 256 buckets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from napari_volseg.errors import DataError

__all__ = ["flood", "watershed"]

# Items per link of a bucket: 4 KiB, one page.
_LINK = 1024
# How many voxels ahead of the flood the memory is asked for.
_AHEAD = 12


def watershed(
    height_ZYX: NDArray[np.uint8],
    seeds_ZYX: NDArray[np.integer[Any]],
    mask_ZYX: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """Flood the mask from the seeds, lowest voxels first.

    Voxels are 6-connected. A voxel is reached at the height of the pass that leads
    to it; voxels of one height are flooded in the order in which they were reached,
    and seed voxels of one height in raster order. The result is that of
    `skimage.segmentation.watershed` up to version 0.26, which leaves only the order
    of seed voxels of one height to chance (the layout of its heap).

    Parameters
    ----------
    height_ZYX
        Heights, uint8.
    seeds_ZYX
        Ids above 0 where the flood starts; seeds outside the mask are ignored.
    mask_ZYX
        Where the flood may go.

    Returns
    -------
    NDArray
        Id of the seed that reached each voxel, 0 where none did; the inputs are
        not written.

    Raises
    ------
    DataError
        If the volume or an id is too large for 32 bits.

    References
    ----------
    Flooding with a hierarchical queue: Meyer 1994, Signal Processing 38(1).
    """
    if height_ZYX.dtype != np.uint8 or height_ZYX.ndim != 3:
        raise ValueError(f"heights must be uint8 ZYX, not {height_ZYX.dtype}")
    if not height_ZYX.shape == seeds_ZYX.shape == mask_ZYX.shape:
        raise ValueError(
            f"height {height_ZYX.shape}, seeds {seeds_ZYX.shape} and mask "
            f"{mask_ZYX.shape} must have one shape"
        )
    if seeds_ZYX.size and int(seeds_ZYX.max()) >= 2**31:
        raise DataError(
            f"the seeds have the id {int(seeds_ZYX.max())}, beyond 31 bits: "
            "renumber them"
        )
    state = flood(
        np.ascontiguousarray(height_ZYX),
        np.ascontiguousarray(seeds_ZYX, dtype=np.int32),
        np.ascontiguousarray(mask_ZYX, dtype=np.bool_),
    )
    labels_ZYX: NDArray[np.int32] = np.maximum(inside(state, height_ZYX.shape), 0)
    return labels_ZYX


def flood(
    height_ZYX: NDArray[np.uint8],
    seeds_ZYX: NDArray[np.int32],
    mask_ZYX: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """Return the flooded state; `inside` finds the volume in it.

    The state of a voxel is its id once reached, 0 outside the mask, and before it
    is reached -1 - height: so a voxel is one word of memory to the flood. A border
    of zeros saves it from asking where the volume ends; the last border of a row
    is the first of the next.
    """
    n_z, n_y, n_x = height_ZYX.shape
    row = n_x + 1
    plane = row * (n_y + 1)
    n_state = (n_z + 2) * plane + row
    if n_state >= 2**31:
        raise DataError(
            f"a volume of shape {height_ZYX.shape} is too large for one watershed: "
            "segment a part of it, at most 2000 million voxels"
        )
    state = np.zeros(n_state, np.int32)
    n_inside = _enter(height_ZYX, seeds_ZYX, mask_ZYX, state, row, plane)
    # Links are handed out one by one and used again, so most of the pool is never
    # touched and takes no memory: about an eighth of it on real maps.
    n_links = n_inside // _LINK + 2 * 256 + 1
    pool = np.empty(n_links * _LINK, np.int32)
    after = np.empty(n_links, np.int32)
    _flood(height_ZYX, state, row, plane, pool, after)
    return state


def inside(state: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return the view of the state that covers the volume, shape (Z, Y, X)."""
    n_z, n_y, n_x = shape
    padded = state[: -(n_x + 1)].reshape(n_z + 2, n_y + 1, n_x + 1)
    return padded[1:-1, 1:, :-1]


@intrinsic
def _intrinsic_prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of an item of a one-dimensional array.

    The flood jumps all over the volume and would wait for memory most of the time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type = signature.args[0]
        values = context.make_array(array_type)(context, builder, arguments[0])
        item = cgutils.get_item_pointer(  # type: ignore[no-untyped-call]
            context, builder, array_type, values, [arguments[1]], wraparound=False
        )
        pointer = builder.bitcast(item, cgutils.voidptr_t)
        prefetch = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [pointer.type],
            ir.FunctionType(ir.VoidType(), [pointer.type] + [cgutils.int32_t] * 3),
        )
        write, keep, data = (cgutils.int32_t(value) for value in (1, 3, 1))
        builder.call(prefetch, [pointer, write, keep, data])
        return context.get_dummy_value()

    return types.void(array, index), generate


_prefetch = cast("Callable[[NDArray[np.int32], int], None]", _intrinsic_prefetch)


@njit(nogil=True, cache=True)
def _enter(
    height: NDArray[np.uint8],
    seeds: NDArray[np.int32],
    mask: NDArray[np.bool_],
    state: NDArray[np.int32],
    row: int,
    plane: int,
) -> int:
    """Fill the state before the flood; return how many voxels are in the mask."""
    n_inside = 0
    for z in range(height.shape[0]):
        for y in range(height.shape[1]):
            start = (z + 1) * plane + (y + 1) * row
            for x in range(height.shape[2]):
                if mask[z, y, x]:
                    n_inside += 1
                    seed = seeds[z, y, x]
                    if seed > 0:
                        state[start + x] = seed
                    else:
                        state[start + x] = -1 - np.int32(height[z, y, x])
    return n_inside


@njit(nogil=True, cache=True)
def _push(
    voxel: int,
    level: int,
    pool: NDArray[np.int32],
    after: NDArray[np.int32],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    fill: NDArray[np.int64],
    free: NDArray[np.int64],
) -> None:
    """Append a voxel to the bucket of a level.

    A bucket is a chain of links: `first` and `last` of each level, `fill` of its
    last; `after` chains them. `free` holds the first link to use again, -1 for
    none, and how many links were ever handed out.
    """
    link = int(last[level])
    if link < 0 or fill[level] == _LINK:
        link = free[0]
        if link >= 0:
            free[0] = after[link]
        else:
            link = free[1]
            free[1] += 1
        after[link] = -1
        if last[level] < 0:
            first[level] = link
        else:
            after[last[level]] = link
        last[level] = link
        fill[level] = 0
    pool[link * _LINK + fill[level]] = voxel
    fill[level] += 1


@njit(nogil=True, cache=True)
def _flood(
    height: NDArray[np.uint8],
    state: NDArray[np.int32],
    row: int,
    plane: int,
    pool: NDArray[np.int32],
    after: NDArray[np.int32],
) -> None:
    first = np.full(256, -1, np.int64)
    last = np.full(256, -1, np.int64)
    fill = np.zeros(256, np.int64)
    free = np.array([-1, 0], np.int64)
    # skimage's order of neighbours, which decides between equals.
    steps = (-plane, -row, -1, 1, row, plane)

    for z in range(height.shape[0]):
        for y in range(height.shape[1]):
            start = (z + 1) * plane + (y + 1) * row
            for x in range(height.shape[2]):
                voxel = start + x
                if state[voxel] > 0:
                    rim = False
                    for step in steps:
                        rim |= state[voxel + step] < 0
                    if rim:
                        level = int(height[z, y, x])
                        _push(voxel, level, pool, after, first, last, fill, free)

    for level in range(256):
        link = int(first[level])
        while link >= 0:
            start = link * _LINK
            n_done = 0
            while True:
                # The bucket grows while it is emptied.
                n_items = int(fill[level]) if link == last[level] else _LINK
                if n_done == n_items:
                    break
                if n_done + _AHEAD < n_items:
                    ahead = int(pool[start + n_done + _AHEAD])
                    _prefetch(state, ahead - plane)
                    _prefetch(state, ahead - row)
                    _prefetch(state, ahead)
                    _prefetch(state, ahead + row)
                    _prefetch(state, ahead + plane)
                voxel = int(pool[start + n_done])
                n_done += 1
                seed = state[voxel]
                for step in steps:
                    neighbour = voxel + step
                    unseen = state[neighbour]
                    if unseen < 0:
                        reached = max(level, -1 - int(unseen))
                        state[neighbour] = seed
                        _push(neighbour, reached, pool, after, first, last, fill, free)
            following = int(after[link])
            after[link] = free[0]
            free[0] = link
            link = following
