"""Volumes as OME-Zarr 0.5, readable while they are being written."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size, iter_boxes
from napari_volseg.io.atomic import flush_file, writing
from napari_volseg.io.datasets import check_dtype
from napari_volseg.io.home import expand_home
from napari_volseg.io.ngff import make_multiscale
from napari_volseg.volume import ArrayLike, VoxelSize

__all__ = ["create_zarr", "flush_shards", "reopen_zarr", "write_volume_zarr"]

_CHUNK = (16, 128, 128)


def create_zarr(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    dtype: Any,
    voxel_size: VoxelSize,
    *,
    name: str,
    labels: bool = False,
    block: Size | None = None,
) -> zarr.Array[Any]:
    """Create an OME-Zarr 0.5 image of zeros and return its array for writing.

    Chunks of 16 × 128 × 128 voxels, one channel each, appear atomically, so
    that the image may be read meanwhile. Two writers must not share a chunk, nor a
    shard where there are any.

    Parameters
    ----------
    shape
        (C)ZYX.
    voxel_size
        Edge lengths (z, y, x) in nm.
    name
        Name of the image in its metadata.
    labels
        Mark it as instance labels.
    block
        Voxels (z, y, x) that are written together: they share one file, a shard,
        with all their channels.

    Raises
    ------
    DataError
        If something is there already, or the folder cannot be written to.
    """
    target = _free(path)
    dtype = np.dtype(dtype).newbyteorder("=")
    check_dtype(dtype, name)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise DataError(f"{name} has the shape {shape}, which is not a volume (C)ZYX")
    axes = "czyx"[-len(shape) :]
    chunk, shard = _chunks(shape[-3:], block)
    with writing(target):
        group = zarr.create_group(
            LocalStore(target),
            zarr_format=3,
            attributes=make_multiscale(name, axes, voxel_size, labels=labels),
        )
        return group.create_array(
            "0",
            shape=shape,
            dtype=dtype,
            chunks=(1,) * (len(shape) - 3) + chunk,
            shards=shard and (*shape[:-3], *shard),
            compressors=BloscCodec(
                cname="zstd", clevel=1, shuffle="shuffle", typesize=dtype.itemsize
            ),
            fill_value=0,
            dimension_names=tuple(axes),
        )


def reopen_zarr(path: str | os.PathLike[str]) -> zarr.Array[Any]:
    """Return the array of an image that `create_zarr` made, for writing."""
    return zarr.open_group(path, mode="r+")["0"]  # type: ignore[return-value]


def flush_shards(array: zarr.Array[Any], box: Box) -> None:
    """Make the shards of a box, or the chunks without any, durable on the disk.

    Parameters
    ----------
    array
        Axes ZYX, from `create_zarr` or `reopen_zarr`.
    """
    folder = Path(array.store.root) / array.path / "c"  # type: ignore[attr-defined]
    ranges = (
        range(a // n, -(-b // n))
        for a, b, n in zip(
            box.start, box.stop, array.shards or array.chunks, strict=True
        )
    )
    for place in product(*ranges):
        path = folder.joinpath(*map(str, place))
        with writing(path):
            if path.is_file():  # where all is 0 there is none
                flush_file(path)


def write_volume_zarr(
    path: str | os.PathLike[str],
    arrays: Mapping[str, ArrayLike],
    voxel_size: VoxelSize,
    *,
    labels: Collection[str] = ("instances", "labels"),
) -> None:
    """Write arrays as OME-Zarr images in one Zarr group, which appears whole.

    Parameters
    ----------
    arrays
        Arrays with axes (C)ZYX, lazy ones too, by the name of their image.
    voxel_size
        Edge lengths (z, y, x) in nm.
    labels
        Which of them are instance labels.

    Raises
    ------
    DataError
        If something is there already, or the disk is full.
    """
    target = _free(path)
    temporary = target.with_name(f".volseg-{secrets.token_hex(8)}.zarr")
    try:
        with writing(target):
            temporary.mkdir(mode=0o700)
            zarr.create_group(LocalStore(temporary), zarr_format=3)
            for name, array in arrays.items():
                stored = create_zarr(
                    temporary / name,
                    tuple(array.shape),
                    array.dtype,
                    voxel_size,
                    name=name,
                    labels=name in labels,
                )
                _copy(array, stored)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _chunks(
    shape_ZYX: tuple[int, ...], block: Size | None
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the edges of chunks and shards; a small volume is one shard."""
    chunk = tuple(min(c, n) for c, n in zip(_CHUNK, shape_ZYX, strict=True))
    if block is None:
        return chunk, None
    chunk = tuple(
        c if n <= b or b % c == 0 else b
        for c, b, n in zip(chunk, block, shape_ZYX, strict=True)
    )
    shard = tuple(
        b if n > b else -(-n // c) * c
        for b, c, n in zip(block, chunk, shape_ZYX, strict=True)
    )
    return chunk, shard


def _copy(array: ArrayLike, stored: zarr.Array[Any]) -> None:
    depth, height, _ = stored.chunks[-3:]
    block = (depth, 4 * height, stored.shape[-1])
    for channel in range(stored.shape[0]) if stored.ndim == 4 else (None,):
        for box in iter_boxes(stored.shape[-3:], block):
            key = box.slices if channel is None else (channel, *box.slices)
            stored[key] = np.asarray(array[key])


def _free(path: str | os.PathLike[str]) -> Path:
    target = expand_home(path)
    if os.path.lexists(target):
        raise DataError(f"{target} is there already: choose another name or delete it")
    return target
