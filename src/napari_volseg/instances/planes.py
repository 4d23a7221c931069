"""The heights on both sides of the faces between blocks, as planes of the volume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.instances.peaks import ReadLayers
from napari_volseg.io.scratch import new_array

__all__ = ["Layers", "Planes"]

Heights = NDArray[np.uint8]
Layers = Mapping[tuple[int, int], Heights]
"""Heights at the faces of a block, by axis and side."""


class Planes:
    """All planes between the blocks of a volume; those of a large one fill the disk.

    Parameters
    ----------
    shape_ZYX
        Voxels of the volume.
    folder
        Where nameless files are made: all planes together may not fit into memory.
    """

    def __init__(self, shape_ZYX: Size, folder: Path) -> None:
        self._shape, self._folder = shape_ZYX, folder
        self._planes: dict[tuple[int, int], tuple[Heights, Heights]] = {}

    def add(self, layers: Layers, box: Box) -> None:
        """Copy the outermost voxels of a block."""
        for (axis, side), layer in layers.items():
            at = box.stop[axis] if side else box.start[axis]
            if (axis, at) not in self._planes:
                self._planes[axis, at] = self._new(axis), self._new(axis)
            self._planes[axis, at][1 - side][_across(box, axis)] = layer

    def within(self, box: Box) -> ReadLayers:
        """Return what reads the layers of a box on either side of a plane."""

        def read(axis: int, at: int) -> tuple[Heights, Heights]:
            before, after = self._planes[axis, at]
            return before[_across(box, axis)], after[_across(box, axis)]

        return read

    def _new(self, axis: int) -> Heights:
        size = [n for a, n in enumerate(self._shape) if a != axis]
        needs = "seeds: free some space, or choose another folder for temporary files"
        plane: Heights = new_array(size, np.uint8, self._folder, needs)
        return plane


def _across(box: Box, axis: int) -> tuple[slice, ...]:
    return tuple(part for a, part in enumerate(box.slices) if a != axis)
