"""Blocks: what is predicted, written and known to be finished as a whole.

A block of the maps is one shard of their Zarr array. When it is complete on the disk,
an empty file in the job folder says so: ``blocks/000042.done``, or ``.empty`` where
there was nothing to predict and the maps stay 0. Blocks may thus be finished in any
order, by any number of processes, each of them killed at any moment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np

from napari_volseg.geometry import Box, Size
from napari_volseg.io import writing
from napari_volseg.volume import ArrayLike, reading

__all__ = ["BLOCK", "BlockGrid", "Ledger", "choose_tile", "hash_mask"]

BLOCK: Size = (64, 256, 256)
"""Voxels of a block, three maps each: 12.6 MB before compression."""


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """The blocks of a volume, numbered with x fastest."""

    shape_ZYX: Size
    block: Size
    """Voxels of a block; those at the far faces are cut."""

    @property
    def counts(self) -> Size:
        """Number of blocks along each axis."""
        z, y, x = (-(-n // b) for n, b in zip(self.shape_ZYX, self.block, strict=True))
        return z, y, x

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return prod(self.counts)

    def box(self, block_id: int) -> Box:
        """Return the voxels of a block."""
        _, n_y, n_x = self.counts
        place = (block_id // (n_y * n_x), block_id // n_x % n_y, block_id % n_x)
        start = tuple(p * b for p, b in zip(place, self.block, strict=True))
        stop = tuple(
            min(s + b, n)
            for s, b, n in zip(start, self.block, self.shape_ZYX, strict=True)
        )
        return Box(start, stop)  # type: ignore[arg-type]  # three axes by construction

    def touching(self, box: Box) -> list[int]:
        """Return the blocks that share voxels with a box, by rising number."""
        _, n_y, n_x = self.counts
        z, y, x = (
            range(max(0, a) // b, -(-min(c, n) // b))
            for a, c, b, n in zip(
                box.start, box.stop, self.block, self.shape_ZYX, strict=True
            )
        )
        return [(i * n_y + j) * n_x + k for i, j, k in product(z, y, x)]

    def tiles(self, tile: tuple[int, int]) -> list[list[int]]:
        """Return the blocks of each column through the volume.

        Parameters
        ----------
        tile
            Blocks of a column along y and x.
        """
        _, n_y, n_x = self.counts
        depth, height, width = self.shape_ZYX
        columns = []
        for y, x in product(range(0, n_y, tile[0]), range(0, n_x, tile[1])):
            start = (0, y * self.block[1], x * self.block[2])
            stop = (
                depth,
                min(height, start[1] + tile[0] * self.block[1]),
                min(width, start[2] + tile[1] * self.block[2]),
            )
            columns.append(self.touching(Box(start, stop)))
        return columns

    def around(self, block_ids: Iterable[int]) -> Box:
        """Return the smallest box that holds some blocks."""
        return Box.around([self.box(i) for i in block_ids])


class Ledger:
    """Which blocks are finished, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def finish(self, block_id: int, shard: Path | None) -> None:
        """Say that a block is complete.

        Parameters
        ----------
        shard
            The file of the block, made durable first; it is missing where all maps
            are 0. None for a block in which there was nothing to predict.

        Raises
        ------
        DataError
            If the disk is full or the folder is gone.
        """
        suffix = ".empty" if shard is None else ".done"
        path = self._folder / f"{block_id:06d}{suffix}"
        with writing(path):
            if shard is not None and shard.is_file():
                descriptor = os.open(shard, os.O_RDWR)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    def finished(self) -> set[int]:
        """Return the numbers of the blocks that need no more work."""
        return self._read((".done", ".empty"))

    def empty(self) -> set[int]:
        """Return the numbers of the blocks in which there was nothing to predict."""
        return self._read((".empty",))

    def _read(self, suffixes: tuple[str, ...]) -> set[int]:
        if not self._folder.is_dir():
            return set()
        names = (
            os.path.splitext(entry.name)
            for entry in os.scandir(self._folder)
            if entry.name.endswith(suffixes)
        )
        return {int(stem) for stem, _ in names if stem.isdecimal()}


def choose_tile(
    grid: BlockGrid,
    visits: Callable[[int, int, int], int],
    memory: Callable[[Collection[int]], int],
    budget: int,
) -> tuple[int, int]:
    """Return how many blocks along y and x are predicted together.

    Windows at the border of a tile are computed for either side, so that the larger
    the tile, the less is computed twice, and the more memory it takes.

    Parameters
    ----------
    visits
        Rows of windows along an axis that touch a range of voxels: called with the
        axis, start and stop.
    memory
        Bytes that a tile of this height and width in voxels takes.
    budget
        Bytes that a tile may take. One block is the least, whatever it takes.
    """
    costs: list[list[int]] = []
    for axis in (1, 2):
        n, edge = grid.shape_ZYX[axis], grid.block[axis]
        costs.append(
            [
                sum(
                    visits(axis, start, min(n, start + k * edge))
                    for start in range(0, n, k * edge)
                )
                for k in range(1, grid.counts[axis] + 1)
            ]
        )

    def size(tile: Sequence[int]) -> tuple[int, int]:
        y, x = (
            min(n, k * b)
            for n, k, b in zip(grid.shape_ZYX[1:], tile, grid.block[1:], strict=True)
        )
        return y, x

    _, n_y, n_x = grid.counts
    choices = product(range(1, n_y + 1), range(1, n_x + 1))
    fitting = [t for t in choices if t == (1, 1) or memory(size(t)) <= budget]
    return min(
        fitting,
        key=lambda t: (costs[0][t[0] - 1] * costs[1][t[1] - 1], memory(size(t))),
    )


def hash_mask(mask_ZYX: ArrayLike, grid: BlockGrid) -> int:
    """Return a number that changes with the voxels in which a mask is non-zero.

    Raises
    ------
    DataError
        If the mask cannot be read.
    """
    number = 0
    for block_id in range(grid.n_blocks):
        with reading("the mask of where to predict"):
            part_ZYX = np.asarray(mask_ZYX[grid.box(block_id).slices]) != 0
        number = crc32(np.packbits(part_ZYX).tobytes(), number)
    return number
