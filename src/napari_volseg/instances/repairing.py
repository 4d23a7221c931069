"""A flood that follows changes of its seeds and of where it may go.

Arrivals are the one solution of equations between neighbours, see `arrival`. So after a
change most of them still hold. Those that came by a way that is closed now are
withdrawn, with all that came through them; then the flood runs on from what borders on
them and from what is new. What it finds satisfies the equations everywhere, and is
therefore what a new flood would find.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.geometry import Size
from napari_volseg.instances.arrival import WALL
from napari_volseg.instances.changes import Changes, longer
from napari_volseg.instances.tiles import map_tiles

__all__ = ["repair"]

Arrivals = NDArray[np.int32]
Heights = NDArray[np.uint8]
Ids = NDArray[np.int32]
Places = NDArray[np.int64]
_SHIFT = 23
_PART = 1 << 14
"""Places that a thread looks at in a row."""


def repair(
    changes: Changes,
    seeds_ZYX: Ids,
    height_ZYX: Heights,
    arrivals_ZYX: Arrivals,
    labels_ZYX: Ids,
    threads: int,
) -> None:
    """Let the flood follow the changes of `compare`, in place."""
    changed, renamed = changes
    n_z, n_y, n_x = seeds_ZYX.shape
    size = (n_z, n_y, n_x)
    height, seeds = height_ZYX.reshape(-1), seeds_ZYX.reshape(-1)
    arrivals, labels = arrivals_ZYX.reshape(-1), labels_ZYX.reshape(-1)
    changed = changed[
        ~_find_settled(changed, seeds, arrivals, labels, height, size, threads)
    ]
    withdrawn, had = _withdraw(height, arrivals, seeds, size, changed)
    starts = _find_starts(height, arrivals, seeds, size, changed, withdrawn)
    starts = starts[np.argsort(arrivals[starts], kind="stable")]
    reached = _spread(height, arrivals, size, starts)
    _settle(arrivals, seeds, labels, size, changed[:, 0], changed[:, 1])
    _settle(arrivals, seeds, labels, size, withdrawn, had)
    _settle(arrivals, seeds, labels, size, reached, np.full_like(reached, WALL))
    _settle(arrivals, seeds, labels, size, renamed, np.full_like(renamed, WALL))


def _find_settled(
    changed: Places,
    seeds: Ids,
    arrivals: Arrivals,
    labels: Ids,
    height: Heights,
    size: Size,
    threads: int,
) -> NDArray[np.bool_]:
    """Return which changed voxels are reached as before, by a flood of their label.

    They are most of those that were at the rim of a seed. Should what is around them
    change, it will be seen from there.
    """
    is_settled = np.zeros(len(changed), np.bool_)

    def work(start: int) -> None:
        part = slice(start, start + _PART)
        _settled(changed[part], seeds, arrivals, labels, height, size, is_settled[part])

    map_tiles(work, range(0, len(changed), _PART), threads)
    return is_settled


@njit(nogil=True, cache=True)
def _settled(
    changed: Places,
    seeds: Ids,
    arrivals: Arrivals,
    labels: Ids,
    height: Heights,
    size: Size,
    is_settled: NDArray[np.bool_],
) -> None:
    for i in range(len(changed)):
        at, had = changed[i, 0], changed[i, 1]
        if arrivals[at] != had or had <= WALL or seeds[at] > 0:
            continue
        least, label = _earliest(at, arrivals, labels, size)
        is_settled[i] = label == labels[at] and _next(least, int(height[at])) == had


@njit(nogil=True, cache=True)
def _steps(size: Size) -> tuple[int, int, int, int, int, int]:
    """Return the ways to the neighbours before along z, y, x and after along x, y, z.

    That is the order of preference among equals, as in `watershed`.
    """
    row, plane = size[2], size[1] * size[2]
    return (-plane, -row, -1, 1, row, plane)


@njit(nogil=True, cache=True)
def _sides(at: int, size: Size) -> int:
    """Return a bit for each of the six neighbours that lie in the volume."""
    n_z, n_y, n_x = np.uint32(size[0]), np.uint32(size[1]), np.uint32(size[2])
    rows = np.uint32(at) // n_x
    x = np.uint32(at) - rows * n_x
    z = rows // n_y
    y = rows - z * n_y
    before = int(z > 0) | int(y > 0) << 1 | int(x > 0) << 2
    after = int(x + 1 < n_x) << 3 | int(y + 1 < n_y) << 4 | int(z + 1 < n_z) << 5
    return before | after


@njit(nogil=True, cache=True)
def _next(arrival: int, height: int) -> int:
    """Return the arrival at a voxel of this height from a neighbour."""
    return max((height << _SHIFT) + 1, arrival + 1)


@njit(nogil=True, cache=True)
def _earliest(at: int, arrivals: Arrivals, labels: Ids, size: Size) -> tuple[int, int]:
    """Return arrival and label of the neighbour that was reached first.

    Where none was reached before the voxel itself, that is its own arrival and 0.
    """
    bits, steps = _sides(at, size), _steps(size)
    least, label = int(arrivals[at]), 0
    for side in range(6):
        if bits >> side & 1:
            beside = at + steps[side]
            if WALL < arrivals[beside] < least:
                least, label = int(arrivals[beside]), int(labels[beside])
    return least, label


@njit(nogil=True, cache=True)
def _is_held(at: int, height: Heights, arrivals: Arrivals, size: Size) -> bool:
    """Return whether a neighbour still explains the arrival at a voxel."""
    bits, steps = _sides(at, size), _steps(size)
    came, high = int(arrivals[at]), int(height[at])
    for side in range(6):
        if bits >> side & 1:
            there = int(arrivals[at + steps[side]])
            if there > WALL and _next(there, high) <= came:
                return True
    return False


@njit(nogil=True, cache=True)
def _withdraw(
    height: Heights, arrivals: Arrivals, seeds: Ids, size: Size, changed: Places
) -> tuple[Places, Places]:
    """Withdraw the arrivals that nothing explains any more; return where, and them.

    An explanation is an earlier arrival beside it. As arrivals fall from one to the
    next, they end at a seed.
    """
    steps = _steps(size)
    lost, n = np.empty(1024 + len(changed), np.int64), 0
    had = np.empty(lost.size, np.int64)
    for i in range(len(changed)):
        at, came = changed[i, 0], changed[i, 1]
        if came <= WALL or (arrivals[at] > WALL and seeds[at] > 0):
            continue
        if arrivals[at] > WALL:
            if _is_held(at, height, arrivals, size):
                continue
            arrivals[at] = -1 - np.int32(height[at])
        lost[n], had[n] = at, came
        n += 1
    done = 0
    while done < n:
        at, came = lost[done], had[done]
        done += 1
        bits = _sides(at, size)
        for side in range(6):
            beside = at + steps[side] if bits >> side & 1 else at
            there = int(arrivals[beside])
            if there <= WALL or _next(came, int(height[beside])) != there:
                continue
            if seeds[beside] > 0 or _is_held(beside, height, arrivals, size):
                continue
            if n == lost.size:
                lost, had = longer(lost), longer(had)
            lost[n], had[n] = beside, there
            n += 1
            arrivals[beside] = -1 - np.int32(height[beside])
    return lost[:n].copy(), had[:n].copy()


@njit(nogil=True, cache=True)
def _find_starts(
    height: Heights,
    arrivals: Arrivals,
    seeds: Ids,
    size: Size,
    changed: Places,
    withdrawn: Places,
) -> Places:
    """Return the voxels that are reached otherwise now, from what is around them."""
    steps = _steps(size)
    starts, n = np.empty(len(changed) + withdrawn.size, np.int64), 0
    for i in range(starts.size):
        is_changed = i < len(changed)
        at = changed[i, 0] if is_changed else withdrawn[i - len(changed)]
        if arrivals[at] < WALL:
            bits, high = _sides(at, size), int(height[at])
            least = 2**31
            for side in range(6):
                if bits >> side & 1 and arrivals[at + steps[side]] > WALL:
                    came = int(arrivals[at + steps[side]])
                    least = min(least, _next(came, high))
            if least < 2**31:
                arrivals[at] = least
                starts[n] = at
                n += 1
        elif is_changed and seeds[at] > 0 and WALL < arrivals[at] != changed[i, 1]:
            starts[n] = at
            n += 1
    return starts[:n].copy()


@njit(nogil=True, cache=True)
def _spread(height: Heights, arrivals: Arrivals, size: Size, starts: Places) -> Places:
    """Flood on from some voxels, lowest first; return the voxels that it reached."""
    steps = _steps(size)
    waiting, after = np.empty(1024, np.int64), np.empty(1024, np.int64)
    head, tail = np.full(256, -1, np.int64), np.full(256, -1, np.int64)
    reached, n_reached, n = np.empty(1024, np.int64), 0, 0
    i = 0
    for level in range(256):
        while True:
            # Those where the flood goes on, in the order in which it came there.
            if i < starts.size and arrivals[starts[i]] >> _SHIFT <= level:
                at = starts[i]
                i += 1
            elif head[level] >= 0:
                at = waiting[head[level]]
                head[level] = after[head[level]]
            else:
                break
            came, bits = int(arrivals[at]), _sides(at, size)
            for side in range(6):
                beside = at + steps[side] if bits >> side & 1 else at
                if arrivals[beside] == WALL:
                    continue
                there = _next(came, int(height[beside]))
                if WALL < arrivals[beside] <= there:
                    continue
                arrivals[beside] = there
                if n_reached == reached.size:
                    reached = longer(reached)
                reached[n_reached] = beside
                n_reached += 1
                if n == waiting.size:
                    waiting, after = longer(waiting), longer(after)
                to = there >> _SHIFT
                waiting[n], after[n] = beside, -1
                if head[to] < 0:
                    head[to] = n
                else:
                    after[tail[to]] = n
                tail[to] = n
                n += 1
    return reached[:n_reached].copy()


@njit(nogil=True, cache=True)
def _label(at: int, arrivals: Arrivals, seeds: Ids, labels: Ids, size: Size) -> bool:
    """Give a voxel the label of where the flood came from; return whether it is new."""
    if arrivals[at] == WALL or seeds[at] > 0:
        return False
    label = 0
    if arrivals[at] > WALL:
        _, label = _earliest(at, arrivals, labels, size)
    if labels[at] == label:
        return False
    labels[at] = label
    return True


@njit(nogil=True, cache=True)
def _settle(
    arrivals: Arrivals,
    seeds: Ids,
    labels: Ids,
    size: Size,
    places: Places,
    had: Places,
) -> None:
    """Carry labels along the ways of the flood, from where one may have changed.

    `had` are the arrivals there before, `WALL` for any: ways from a voxel lead to later
    ones only.
    """
    steps = _steps(size)
    stack, n = np.empty(1024, np.int64), 0
    for i in range(places.size):
        start = places[i]
        is_new = _label(start, arrivals, seeds, labels, size)
        came = int(arrivals[start])
        if not is_new and came == had[i]:
            continue
        after = (
            min(had[i], came) if had[i] > WALL and came > WALL else max(had[i], came)
        )
        stack[0], n = start, 1
        while n > 0:
            n -= 1
            at = stack[n]
            bits = _sides(at, size)
            for side in range(6):
                beside = at + steps[side]
                if not bits >> side & 1 or arrivals[beside] <= after:
                    continue
                if _label(beside, arrivals, seeds, labels, size):
                    if n == stack.size:
                        stack = longer(stack)
                    stack[n] = beside
                    n += 1
