"""Where training volumes are kept: in memory, on disk, or in the files they are in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from napari_volseg.annotated import annotated_box
from napari_volseg.errors import DataError
from napari_volseg.geometry import Size
from napari_volseg.volume import LabelledVolume

__all__ = ["CacheMode", "CachePlan", "plan_cache"]

CacheMode = Literal["ram", "disk", "chunks"]

_TARGET_BYTES = 6
"""Three channels of targets and of their validity, a byte each."""
_WORK_BYTES = 30
"""Bytes a voxel while the targets of a whole volume are computed."""
_SCRATCH_BYTES = 8
"""Bytes a voxel of the largest volume on disk while its targets are computed."""
_SHARE = 0.6
"""Volumes may take this share of the free memory."""
_CHUNK_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Where image and targets of the training volumes are kept."""

    mode: CacheMode
    chunk_bytes: int = 2**30
    """Bytes of each image that are kept in memory when it is read in chunks."""
    memory_bytes: int = 0
    """Memory that the training volumes take in all."""
    reason: str = ""
    """Why, in a sentence for the user."""


def plan_cache(
    wanted: Literal["auto", "ram", "disk", "chunks"],
    volumes: Sequence[LabelledVolume],
    context: Size,
    free_memory: int,
    folder: Path,
) -> CachePlan:
    """Choose where volumes are kept.

    Memory when they fit, else a copy on disk, else the files they come from, of
    which the parts used last are kept in memory.

    Parameters
    ----------
    wanted
        As ``data.cache`` says.
    context
        Voxels around the annotation that are read too.
    free_memory
        Bytes that are free, without what the network takes.
    folder
        Where a copy on disk would be made.

    Raises
    ------
    DataError
        If neither memory nor disk has room for what must be kept.
    """
    voxels = [annotated_box(v).grow(context, v.image.shape_ZYX).size for v in volumes]
    images = sum(n * _image_bytes(v) for n, v in zip(voxels, volumes, strict=True))
    targets = _TARGET_BYTES * sum(voxels)
    in_memory = images + targets + _WORK_BYTES * max(voxels)
    free_disk = shutil.disk_usage(folder).free
    scratch = _SCRATCH_BYTES * max(voxels)
    chunk_bytes = int(_CHUNK_SHARE * max(free_memory, 0)) // len(volumes)
    mode: CacheMode
    if wanted != "auto":
        mode = wanted
    elif in_memory <= _SHARE * free_memory:
        mode = "ram"
    elif images + targets + scratch <= 0.9 * free_disk:
        mode = "disk"
    else:
        mode = "chunks"
    on_disk = {
        "ram": 0,
        "disk": images + targets + scratch,
        "chunks": targets + scratch,
    }
    if on_disk[mode] > free_disk:
        raise DataError(
            f"the training data need {on_disk[mode] / 1e9:.1f} GB on the disk of "
            f"{folder} and {free_disk / 1e9:.1f} GB are free: free some space, "
            "annotate a smaller part, or train on a part of the volume such as "
            "em.h5:raw[0:200]"
        )
    sentence = {
        "ram": f"Training data are kept in memory ({_gb(images + targets)}).",
        "disk": f"Training data are kept on disk ({_gb(images + targets)} in "
        f"{folder}).",
        "chunks": f"Images are read from their files as needed, {_gb(chunk_bytes)} of "
        f"each kept in memory; targets are kept on disk ({_gb(targets)} in {folder}).",
    }[mode]
    if wanted == "auto" and mode != "ram":
        sentence += (
            f" Memory would need {_gb(in_memory)} and {_gb(max(free_memory, 0))} are "
            "free."
        )
    labels = sum(
        v.labels_ZYX.nbytes for v in volumes if not isinstance(v.labels_ZYX, np.memmap)
    )
    kept = {"ram": images + targets, "disk": 0, "chunks": chunk_bytes * len(volumes)}
    return CachePlan(mode, chunk_bytes, labels + kept[mode], sentence)


def _image_bytes(volume: LabelledVolume) -> int:
    image = volume.image
    return image.n_channels * np.dtype(image.data.dtype).itemsize


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 5e7 else f"{n_bytes / 1e6:.1f} MB"
