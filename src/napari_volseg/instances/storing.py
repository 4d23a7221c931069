"""Instances of stored maps into a Zarr image, for volumes of any size."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg import __version__
from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Size
from napari_volseg.instances.blockwise import segment_blocks
from napari_volseg.instances.whole import segment_whole, whole_memory
from napari_volseg.instances.written import BlockwiseResult, WritableArray, check
from napari_volseg.io import create_zarr, reopen_zarr, write_json, writing
from napari_volseg.processors import default_threads
from napari_volseg.volume import ArrayLike, VoxelSize, reading

__all__ = ["flood_memory", "forget_blocks", "segment_stored"]

_SHARD: Size = (64, 256, 256)
_BLOCK: Size = (128, 256, 256)
_HALO: Size = (16, 16, 16)
_PLAN = "plan.json"
_BYTES = 20
"""Memory for each voxel of a block with its halo."""


def flood_memory(shape_ZYX: Size, memory: int) -> int:
    """Return the bytes that `segment_stored` takes at most, seeds and table aside."""
    if (whole := whole_memory(shape_ZYX)) <= memory:
        return whole
    return _at_once(shape_ZYX, memory) * _block_memory(shape_ZYX)


def _block_memory(shape_ZYX: Size) -> int:
    """Return the bytes that a block takes with the widest halo, twice the first."""
    edges = (
        min(n, b + 4 * h) for n, b, h in zip(shape_ZYX, _BLOCK, _HALO, strict=True)
    )
    return prod(edges) * _BYTES


def _at_once(shape_ZYX: Size, memory: int) -> int:
    """Return how many blocks are worked on side by side."""
    return max(1, min(default_threads(), memory // _block_memory(shape_ZYX)))


def segment_stored(
    maps_CZYX: ArrayLike,
    path: Path,
    config: InstancesConfig,
    voxel_size: VoxelSize,
    *,
    memory: int,
    source: Path | None = None,
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
    source
        The folder of the Zarr image that the maps are. With it, blocks that are
        finished stay beside `path` however this ends, until `forget_blocks`; the next
        call goes on from there if maps and settings are still the same.
    report
        Called with the number of steps done and of all steps.

    Raises
    ------
    DataError
        If the maps cannot be read, or the disk is full.
    """
    work = _work(path)
    z, y, x = maps_CZYX.shape[1:]
    fits = whole_memory((z, y, x)) <= memory
    plan = None if source is None or fits else _plan(source, (z, y, x), config)
    target = work / path.name
    is_known = plan is not None and _read_plan(work) == plan
    try:
        if not (is_known and (target.exists() or path.exists())):
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
            _prepare(work, path.name, (z, y, x), voxel_size, plan)
        labels = reopen_zarr(target if target.exists() else path)
        try:
            result = _segment(
                _Readable(maps_CZYX),
                labels,
                config,
                work,
                memory,
                plan is not None,
                lambda done, total: report((done, total)),
            )
        except OSError as error:
            with writing(path):
                raise error from None
        with writing(path):
            if target.exists():
                if path.exists():
                    path.rename(work / "old")
                target.rename(path)
    finally:
        if plan is None:
            shutil.rmtree(work, ignore_errors=True)
    return result


def forget_blocks(path: Path) -> None:
    """Remove what `segment_stored` left beside an image, to go on from."""
    work = _work(path)
    with suppress(OSError):
        (work / _PLAN).unlink()  # first: without it nothing counts
    shutil.rmtree(work, ignore_errors=True)


def _work(path: Path) -> Path:
    return path.with_name(f".volseg-{path.stem}")


def _prepare(
    work: Path,
    name: str,
    shape_ZYX: Size,
    voxel_size: VoxelSize,
    plan: dict[str, Any] | None,
) -> None:
    """Make the folder of temporary files, and in it the image of the instances."""
    with writing(work):
        work.mkdir(mode=0o700)
    create_zarr(
        work / name,
        shape_ZYX,
        np.dtype(np.int32),
        voxel_size,
        name="instances",
        labels=True,
        block=_SHARD,
    )
    if plan is not None:
        write_json(work / _PLAN, plan)


def _plan(source: Path, shape_ZYX: Size, config: InstancesConfig) -> dict[str, Any]:
    """Return all that the instances of blocks depend on."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            found = path.stat()
            entry = (
                path.relative_to(source).as_posix(),
                found.st_size,
                found.st_mtime_ns,
            )
            digest.update(repr(entry).encode())
    return {
        "version": __version__,
        "maps": digest.hexdigest(),
        "shape": list(shape_ZYX),
        "instances": config.model_dump(mode="json"),
        "block": list(_BLOCK),
        "halo": list(_HALO),
    }


def _read_plan(work: Path) -> dict[str, Any] | None:
    try:
        plan = json.loads((work / _PLAN).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def _segment(
    maps_CZYX: ArrayLike,
    labels_ZYX: WritableArray,
    config: InstancesConfig,
    work: Path,
    memory: int,
    is_kept: bool,
    report: Callable[[int, int], None],
) -> BlockwiseResult:
    check(maps_CZYX, labels_ZYX, _BLOCK)
    z, y, x = maps_CZYX.shape[1:]
    if whole_memory((z, y, x)) <= memory:
        return segment_whole(maps_CZYX, labels_ZYX, config, block=_SHARD, report=report)
    return segment_blocks(
        maps_CZYX,
        labels_ZYX,
        config,
        block=_BLOCK,
        halo=_HALO,
        scratch=work,
        kept=work if is_kept else None,
        at_once=_at_once((z, y, x), memory),
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
