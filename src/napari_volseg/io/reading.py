"""Open a source in whatever format its file turns out to have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.io.axes import arrange
from napari_volseg.io.datasets import Role
from napari_volseg.io.failures import check_memory, refusing
from napari_volseg.io.lazy import LazyArray, Stored
from napari_volseg.io.sources import Source, check_exists, parse_source
from napari_volseg.volume import UNKNOWN_VOXEL_SIZE, Volume, VoxelSize

__all__ = [
    "list_datasets",
    "open_labels",
    "open_mask",
    "open_volume",
    "read_labels",
    "read_mask",
]

Format = Literal["hdf5", "zarr", "tiff", "npy"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the file with git lfs",
    b"<!DOCTYPE": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x1f\x8b": "a gzip archive: unpack it first",
}


def open_volume(source: str, voxel_size: VoxelSize | None = None) -> Volume:
    """Open an image without reading its values.

    Parameters
    ----------
    source
        ``path[:dataset][slices]``: HDF5, Zarr or OME-Zarr, TIFF or OME-TIFF, .npy.
        Four axes are (channel, z, y, x).
    voxel_size
        Voxel size (z, y, x) in nm in place of what the file says. Steps in the
        slices multiply either.

    Returns
    -------
    Volume
        Its data is a `LazyArray` with axes (C)ZYX in native byte order. The voxel
        size is (1, 1, 1) when nothing states one.

    Raises
    ------
    DataError
        If the file is missing, damaged, in use, not a volume, or refers to data
        outside itself.
    """
    array, size, name = _open(source, "image", voxel_size)
    return Volume(array, size or UNKNOWN_VOXEL_SIZE, name)


def open_labels(source: str) -> LazyArray:
    """Open instance labels, or a mask, with axes ZYX without reading their values.

    Raises
    ------
    DataError
        As `open_volume`, and for several channels.
    """
    return _single(*_open(source, "labels"))


def read_labels(source: str) -> NDArray[Any]:
    """Read instance labels with axes ZYX, in native byte order and as stored.

    Raises
    ------
    DataError
        As `open_volume`; for several channels; if memory does not suffice.
    """
    return _single(*_open(source, "labels"))[...]


def open_mask(source: str) -> LazyArray:
    """Open a mask with axes ZYX without reading its values; not zero is inside.

    Raises
    ------
    DataError
        As `open_labels`.
    """
    return _single(*_open(source, "mask"))


def read_mask(source: str) -> NDArray[np.bool_]:
    """Read a mask with axes ZYX: True where the stored value is not zero.

    Raises
    ------
    DataError
        As `read_labels`.
    """
    array = open_mask(source)
    check_memory(array.size, source)
    mask = np.empty(array.shape, np.bool_)
    for z in range(0, array.shape[0], 16):
        mask[z : z + 16] = array[z : z + 16] != 0
    return mask


def list_datasets(path: str) -> list[str]:
    """Return what may follow the colon of a source: datasets, or series of a TIFF.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    file = check_exists(parse_source(path).path)
    match _format(file):
        case "hdf5":
            from napari_volseg.io.hdf5 import list_hdf5

            return list_hdf5(file)
        case "zarr":
            from napari_volseg.io.zarr import list_zarr

            return list_zarr(file)
        case "tiff":
            from napari_volseg.io.tiff import list_tiff

            return list_tiff(file)
        case "npy":
            return []


def _open(
    text: str, role: Role, voxel_size: VoxelSize | None = None
) -> tuple[LazyArray, VoxelSize | None, str]:
    source = parse_source(text)
    stored = _stored(check_exists(source.path), source, role)
    if voxel_size is not None:
        stored = replace(stored, voxel_size=voxel_size)
    return *arrange(stored, source), source.name


def _stored(path: Path, source: Source, role: Role) -> Stored:
    match _format(path):  # imported on use: together they cost a third of a second
        case "hdf5":
            from napari_volseg.io.hdf5 import open_hdf5

            return open_hdf5(path, source, role)
        case "zarr":
            from napari_volseg.io.zarr import open_zarr

            return open_zarr(path, source, role)
        case "tiff":
            from napari_volseg.io.tiff import open_tiff

            return open_tiff(path, source)
        case "npy":
            from napari_volseg.io.npy import open_npy

            return open_npy(path, source)


def _single(array: LazyArray, _: VoxelSize | None, name: str) -> LazyArray:
    """Return labels or a mask without its channel axis."""
    if array.ndim == 4:
        if array.shape[0] != 1:
            raise DataError(
                f"{name} has {array.shape[0]} channels {array.shape} but labels have "
                "one: pick it, for instance with [0]"
            )
        return array.without_channels()
    return array


def _format(path: Path) -> Format:
    """Return the format that the first bytes of a file say it has."""
    if path.is_dir():
        return "zarr"
    with refusing(path.name, "check that you may read it"), path.open("rb") as stream:
        head = stream.read(32)
        if head.startswith(b"\x93NUMPY"):
            return "npy"
        if head.startswith(_TIFF):
            return "tiff"
        offset = 0
        while offset <= 2**20:  # HDF5 allows a user block of 512, 1024, … bytes
            stream.seek(offset)
            if stream.read(8) == _HDF5:
                return "hdf5"
            offset = max(512, 2 * offset)
    if not head:
        raise DataError(f"{path.name} is empty (0 bytes): copy it again")
    for start, what in _FOREIGN.items():
        if head.startswith(start):
            raise DataError(f"{path.name} is {what}")
    raise DataError(
        f"{path.name} is neither HDF5, Zarr, TIFF nor .npy: convert it to one of them"
    )
