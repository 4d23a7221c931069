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
from napari_volseg.instances.blockwise import (
    BlockwiseResult,
    WritableArray,
    check,
    segment_blocks,
)
from napari_volseg.instances.whole import segment_whole, whole_memory
from napari_volseg.io import create_zarr, writing
from napari_volseg.volume import ArrayLike, VoxelSize, reading

__all__ = ["flood_memory", "segment_stored"]

_SHARD: Size = (64, 256, 256)
_BLOCK: Size = (128, 256, 256)
_HALO: Size = (16, 16, 16)
_BYTES = 20
"""Memory for each voxel of a block with its halo."""


def flood_memory(shape_ZYX: Size, memory: int) -> int:
    """Return the bytes that `segment_stored` takes at most, seeds and table aside."""
    if (whole := whole_memory(shape_ZYX)) <= memory:
        return whole
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
    memory: int,
    report: Callable[[tuple[int, int]], None] = lambda steps: None,
) -> BlockwiseResult:
    """Write the instances of maps as an OME-Zarr image that appears whole.

    They are made in memory where that suffices, else block by block; they are the same.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, read block by block.
    path
        Where the image goes; what is there is replaced. Temporary files lie beside it.
    memory
        Bytes to stay within, if that is more than a block takes.
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
            result = _segment(
                _Readable(maps_CZYX),
                labels,
                config,
                work,
                whole_memory((z, y, x)) <= memory,
                lambda done, total: report((done, total)),
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


def _segment(
    maps_CZYX: ArrayLike,
    labels_ZYX: WritableArray,
    config: InstancesConfig,
    scratch: Path,
    fits: bool,
    report: Callable[[int, int], None],
) -> BlockwiseResult:
    check(maps_CZYX, labels_ZYX, _BLOCK)
    if fits:
        return segment_whole(maps_CZYX, labels_ZYX, config, block=_SHARD, report=report)
    return segment_blocks(
        maps_CZYX,
        labels_ZYX,
        config,
        block=_BLOCK,
        halo=_HALO,
        scratch=scratch,
        report=report,
    )


class _Readable:
    """Maps whose failures to be read are told from those to write beside them."""

    def __init__(self, maps: ArrayLike) -> None:
        self._maps, self.shape, self.dtype = maps, tuple(maps.shape), maps.dtype

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        ends = zip("zyx", key[1:], strict=True)
        place = ", ".join(f"{axis} {part.start}:{part.stop}" for axis, part in ends)
        with reading(f"the block of the maps at {place}"):
            return np.asarray(self._maps[key])
