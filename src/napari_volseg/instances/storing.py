"""Instances of stored maps into a Zarr image, for volumes of any size."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Size
from napari_volseg.instances.blockwise import BlockwiseResult, segment_blocks
from napari_volseg.io import create_zarr, writing
from napari_volseg.volume import ArrayLike, VoxelSize, reading

__all__ = ["flood_memory", "segment_stored"]

_SHARD: Size = (64, 256, 256)
_BLOCK: Size = (128, 256, 256)
_HALO: Size = (16, 16, 16)
_BYTES = 20
"""Memory for each voxel of a block with its halo."""


def flood_memory(shape_ZYX: Size) -> int:
    """Return the bytes that `segment_stored` takes at most, seeds and table aside."""
    edges = (
        min(n, b + 2 * h) for n, b, h in zip(shape_ZYX, _BLOCK, _HALO, strict=True)
    )
    return prod(edges) * _BYTES


def segment_stored(
    maps_CZYX: ArrayLike,
    path: Path,
    config: InstancesConfig,
    voxel_size: VoxelSize,
    *,
    report: Callable[[tuple[int, int]], None] = lambda steps: None,
) -> BlockwiseResult:
    """Write the instances of maps as an OME-Zarr image that appears whole.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, read block by block.
    path
        Where the image goes; what is there is replaced. Temporary files lie beside it.
    report
        Called with the number of steps done and of all steps.

    Raises
    ------
    DataError
        If the maps cannot be read, or the disk is full.
    """
    work = path.with_name(f".volseg-{path.stem}")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    with writing(work):
        work.mkdir(mode=0o700)
    try:
        z, y, x = maps_CZYX.shape[1:]
        labels = create_zarr(
            work / path.name,
            (z, y, x),
            np.dtype(np.int32),
            voxel_size,
            name="instances",
            labels=True,
            block=_SHARD,
        )
        try:
            result = segment_blocks(
                _Readable(maps_CZYX),
                labels,
                config,
                block=_BLOCK,
                halo=_HALO,
                scratch=work,
                report=lambda done, total: report((done, total)),
            )
        except OSError as error:
            with writing(path):
                raise error from None
        with writing(path):
            if path.exists():
                path.rename(work / "old")
            (work / path.name).rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return result


class _Readable:
    """Maps whose failures to be read are told from those to write beside them."""

    def __init__(self, maps: ArrayLike) -> None:
        self._maps, self.shape, self.dtype = maps, tuple(maps.shape), maps.dtype

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        with reading("a block of the maps"):
            return np.asarray(self._maps[key])
