"""Volumes as HDF5 files that appear whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from napari_volseg.errors import DataError
from napari_volseg.geometry import iter_boxes
from napari_volseg.io.atomic import atomic_path
from napari_volseg.io.datasets import check_dtype
from napari_volseg.io.hdf5 import in_use
from napari_volseg.io.home import expand_home
from napari_volseg.volume import ArrayLike, VoxelSize

__all__ = ["add_dataset", "write_hdf5"]

_WRITE_BLOCK = 64 * 2**20
_CHUNK = (32, 128, 128)


def write_hdf5(
    path: str | os.PathLike[str],
    arrays: Mapping[str, ArrayLike],
    voxel_size: VoxelSize,
    attrs: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> None:
    """Write arrays as datasets of one HDF5 file, atomically.

    Lazy arrays are copied block by block. Datasets are chunked, compressed with
    gzip 1 and carry ``voxel_size_zyx_nm``.

    Parameters
    ----------
    arrays
        Arrays with axes (C)ZYX by the name of their dataset.
    voxel_size
        Edge lengths (z, y, x) in nm.
    attrs
        Attributes of the file: text and numbers.
    folder
        Where the file lies until it is whole, see `atomic_path`.

    Raises
    ------
    DataError
        If the file is in use, the disk is full or an array has an unsuitable
        type; a file that was there stays as it was.
    """
    target = expand_home(path)
    for name, array in arrays.items():
        check_dtype(np.dtype(array.dtype), name)
        if len(array.shape) not in (3, 4):
            raise DataError(f"{name} has the shape {array.shape}, which is not (C)ZYX")
    _refuse_locked(target)
    # No chunk cache: a full disk is then an error of the write that met it, not
    # one of a destructor, which Python would ignore.
    with (
        atomic_path(target, folder) as temporary,
        h5py.File(temporary, "w", rdcc_nbytes=0) as h5,
    ):
        h5.attrs.update(attrs or {})
        for name, array in arrays.items():
            add_dataset(h5, name, array, voxel_size)


def add_dataset(
    h5: h5py.File, name: str, array: ArrayLike, voxel_size: VoxelSize
) -> None:
    """Copy an array (C)ZYX into an open file, block by block."""
    shape = tuple(array.shape)
    dtype = np.dtype(array.dtype).newbyteorder("=")
    if 0 in shape:
        raise DataError(f"{name} is empty: its shape is {shape}")
    depth, height, width = (min(c, n) for c, n in zip(_CHUNK, shape[-3:], strict=True))
    dataset = h5.create_dataset(
        name,
        shape,
        dtype,
        chunks=(1,) * (len(shape) - 3) + (depth, height, width),
        compression="gzip",
        compression_opts=1,
        shuffle=dtype.itemsize > 1,
    )
    dataset.attrs["voxel_size_zyx_nm"] = np.asarray(voxel_size, float)
    rows = max(1, _WRITE_BLOCK // (depth * height * shape[-1] * dtype.itemsize))
    columns = max(1, _WRITE_BLOCK // (depth * height * width * dtype.itemsize))
    block = (depth, rows * height, min(columns * width, shape[-1]))
    for channel in range(shape[0]) if len(shape) == 4 else (None,):
        for box in iter_boxes(shape[-3:], block):
            key = box.slices if channel is None else (channel, *box.slices)
            dataset[key] = np.asarray(array[key])


def _refuse_locked(target: Path) -> None:
    """Raise when another program writes the file that would be replaced."""
    if os.name == "nt" or not target.is_file():
        return  # Windows does not let an open file be replaced
    import fcntl

    with contextlib.suppress(OSError), target.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise in_use(target.name) from None
