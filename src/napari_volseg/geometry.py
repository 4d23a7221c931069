"""Boxes, window grids and blend weights: the integers of a volume.

Everything here is in voxels, ordered z, y, x, and half-open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Box",
    "MarkedBlocks",
    "Size",
    "blend_profile",
    "iter_boxes",
    "reading_block",
    "window_starts",
]

Size = tuple[int, int, int]

_MARKED: Size = (8, 32, 32)
_MAX_MARKED = 1000


@dataclass(frozen=True, slots=True)
class Box:
    """A box of voxels, `start` included and `stop` not."""

    start: Size
    stop: Size

    def __post_init__(self) -> None:
        if any(a > b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box starts at {self.start} after its stop {self.stop}")

    def __str__(self) -> str:
        """Return the box as an index, ``[0:64,256:512,0:256]``."""
        pairs = zip(self.start, self.stop, strict=True)
        return "[" + ",".join(f"{a}:{b}" for a, b in pairs) + "]"

    @classmethod
    def whole(cls, shape_ZYX: Sequence[int]) -> Box:
        """Return the box that covers a volume of this shape."""
        z, y, x = (int(n) for n in shape_ZYX)
        return cls((0, 0, 0), (z, y, x))

    @classmethod
    def around(cls, boxes: Sequence[Box]) -> Box:
        """Return the smallest box around boxes."""
        start = [min(box.start[axis] for box in boxes) for axis in range(3)]
        stop = [max(box.stop[axis] for box in boxes) for axis in range(3)]
        return cls((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    @property
    def shape(self) -> Size:
        """Edge lengths in voxels."""
        z, y, x = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def size(self) -> int:
        """Number of voxels."""
        z, y, x = self.shape
        return z * y * x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box into an array with axes ZYX."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def grow(self, halo: Sequence[int], shape_ZYX: Sequence[int]) -> Box:
        """Return the box `halo` voxels larger on every side, cut at the volume."""
        start = tuple(max(0, a - h) for a, h in zip(self.start, halo, strict=True))
        stop = tuple(
            min(n, b + h) for b, h, n in zip(self.stop, halo, shape_ZYX, strict=True)
        )
        return Box(start, stop)  # type: ignore[arg-type]  # lengths follow from zip

    def clip(self, shape_ZYX: Sequence[int]) -> Box:
        """Return the part of the box inside a volume; empty when there is none."""
        start = tuple(
            min(max(0, a), n) for a, n in zip(self.start, shape_ZYX, strict=True)
        )
        stop = tuple(
            min(max(a, b), n)
            for a, b, n in zip(start, self.stop, shape_ZYX, strict=True)
        )
        return Box(start, stop)  # type: ignore[arg-type]

    def contains(self, other: Box) -> bool:
        """Return whether another box lies inside this one."""
        return all(
            a <= b for a, b in zip(self.start, other.start, strict=True)
        ) and all(a >= b for a, b in zip(self.stop, other.stop, strict=True))

    def within(self, outer: Box) -> tuple[slice, slice, slice]:
        """Return the index of this box into an array that covers `outer`."""
        z, y, x = (
            slice(a - o, b - o)
            for a, b, o in zip(self.start, self.stop, outer.start, strict=True)
        )
        return z, y, x


class MarkedBlocks:
    """Which blocks of a volume hold a marked voxel.

    Blocks are of 8 x 32 x 32 voxels, and larger where there would be more than a
    thousand of them.

    Parameters
    ----------
    shape_ZYX
        Shape of the volume.
    """

    def __init__(self, shape_ZYX: Sequence[int]) -> None:
        self._shape = tuple(shape_ZYX)
        sides = zip(shape_ZYX, _MARKED, strict=True)
        self._grid_ZYX = np.zeros([-(-n // b) for n, b in sides], np.bool_)

    def mark(self, box: Box, mask_ZYX: NDArray[np.bool_]) -> None:
        """Mark the blocks of the True voxels of a mask that covers a box."""
        blocks = []
        for axis, (start, stop) in enumerate(zip(box.start, box.stop, strict=True)):
            if start == stop:
                return
            first, size = start // _MARKED[axis], _MARKED[axis]
            end = -(-stop // size)
            starts = [max(0, i * size - start) for i in range(first, end)]
            mask_ZYX = np.logical_or.reduceat(mask_ZYX, starts, axis=axis)
            blocks.append(slice(first, end))
        self._grid_ZYX[tuple(blocks)] |= mask_ZYX

    def mark_voxels(self, flat_N: NDArray[np.int64]) -> None:
        """Mark the blocks of voxels that are given as flat indices."""
        places = np.unravel_index(flat_N, self._shape)
        self._grid_ZYX[tuple(p // b for p, b in zip(places, _MARKED, strict=True))] = (
            True
        )

    def boxes(self) -> tuple[Box, ...]:
        """Return the marked blocks."""
        grid, block = self._grid_ZYX, _MARKED
        while np.count_nonzero(grid) > _MAX_MARKED:
            for axis, n in enumerate(grid.shape):
                grid = np.logical_or.reduceat(grid, range(0, n, 2), axis=axis)
            block = (2 * block[0], 2 * block[1], 2 * block[2])
        boxes = []
        for index in np.argwhere(grid):
            start = [int(i) * b for i, b in zip(index, block, strict=True)]
            stop = [a + b for a, b in zip(start, block, strict=True)]
            box = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
            boxes.append(box.clip(self._shape))
        return tuple(boxes)


def window_starts(length: int, window: int, overlap: float) -> tuple[int, ...]:
    """Return where windows start along one axis, so that they cover it.

    The grid depends on the length of the whole axis only, never on the block
    that is asked for, so a volume predicted in blocks sees the same windows.

    Parameters
    ----------
    length
        Length of the axis in voxels, at least `window`.
    window
        Length of a window.
    overlap
        Share of a window that the next one covers again, 0 <= overlap < 1.
    """
    if length < window:
        raise ValueError(f"axis of {length} voxels is shorter than window {window}")
    n_steps = -(-(length - window) // max(1, round(window * (1 - overlap))))
    last = length - window
    return (
        tuple(round(last * i / n_steps) for i in range(n_steps + 1)) if last else (0,)
    )


def blend_profile(window: int) -> NDArray[np.float32]:
    """Return the weight of a window along one axis: a Gaussian, never zero.

    The weight of a voxel in a window is the product of its three profiles, so
    the sum over a regular grid of windows is separable too. Sigma is an eighth
    of the window, after nnU-Net (Isensee et al. 2021), with a floor that keeps
    the faces of the volume well conditioned.
    """
    centre = (window - 1) / 2
    offset = (np.arange(window) - centre) / max(window / 8, 1e-6)
    profile: NDArray[np.float32] = np.exp(-0.5 * offset**2).astype(np.float32)
    return np.maximum(profile, np.float32(1e-3))


def iter_boxes(shape_ZYX: Sequence[int], block: Sequence[int]) -> Iterator[Box]:
    """Yield boxes of at most `block` voxels an edge that tile a volume exactly."""
    ranges = [range(0, n, b) for n, b in zip(shape_ZYX, block, strict=True)]
    for start in product(*ranges):
        stop = tuple(
            min(s + b, n) for s, b, n in zip(start, block, shape_ZYX, strict=True)
        )
        yield Box(start, stop)  # type: ignore[arg-type]


def reading_block(
    shape_ZYX: Sequence[int],
    chunks: Iterable[Sequence[int] | None],
    max_voxels: int,
) -> Size:
    """Return a block in which arrays of one shape are quick to read.

    It consists of whole chunks of the largest, as many as the limit allows, along x
    first; only when a chunk exceeds four times the limit is it divided.

    Parameters
    ----------
    chunks
        Chunk (z, y, x) of each array; None for one that is stored plainly.
    max_voxels
        Voxels of the block to aim at.
    """
    block = [1, 1, 1]
    for chunk in chunks:
        if chunk is not None:
            block = [max(b, c) for b, c in zip(block, chunk, strict=True)]
    block = [min(b, n) for b, n in zip(block, shape_ZYX, strict=True)]
    for axis in (2, 1, 0):
        fits = max_voxels // (prod(block) // block[axis])
        n_chunks = max(1, fits // block[axis])
        block[axis] = min(block[axis] * n_chunks, shape_ZYX[axis])
    for axis in (0, 1, 2):
        if prod(block) > 4 * max_voxels:
            others = prod(block) // block[axis]
            block[axis] = max(1, 4 * max_voxels // others)
    z, y, x = (int(b) for b in block)
    return z, y, x
