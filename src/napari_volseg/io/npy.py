"""NumPy's .npy: never unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_volseg.io.datasets import check_dtype
from napari_volseg.io.failures import refusing
from napari_volseg.io.lazy import Stored
from napari_volseg.io.plain import PlainArray
from napari_volseg.io.sources import Source

__all__ = ["open_npy"]


def open_npy(path: Path, source: Source) -> Stored:
    """Return the array; the file knows neither axes nor voxel size."""
    with refusing(source.path.name, "save it as an array of numbers with numpy.save"):
        # Numpy checks the header, and the length of the file; nothing else is read.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        check_dtype(mapped.dtype, source.name)
        is_fortran = mapped.flags.f_contiguous and not mapped.flags.c_contiguous
        return Stored(
            PlainArray(
                path, mapped.dtype, mapped.offset, mapped.shape, is_fortran=is_fortran
            )
        )
