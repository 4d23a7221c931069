"""NumPy's .npy: mapped into memory, never unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_volseg.io.datasets import check_dtype
from napari_volseg.io.failures import refusing
from napari_volseg.io.lazy import MappedArray, Stored
from napari_volseg.io.sources import Source

__all__ = ["open_npy"]


def open_npy(path: Path, source: Source) -> Stored:
    """Return the mapped array; the file knows neither axes nor voxel size."""
    with refusing(source.path.name, "save it as an array of numbers with numpy.save"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        check_dtype(array.dtype, source.name)
        return Stored(MappedArray(array))
