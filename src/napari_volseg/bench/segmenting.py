"""How fast maps become instances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import zarr

from napari_volseg.bench.machine import DISK_IS_FULL, Clock
from napari_volseg.bench.volumes import noisy_maps, sample
from napari_volseg.blocks import BLOCK
from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.geometry import Size
from napari_volseg.instances import segment_stored
from napari_volseg.instances.whole import whole_memory
from napari_volseg.io import create_zarr, writing
from napari_volseg.targets import make_targets

__all__ = ["Segmenting", "measure_segmenting"]

_REPEATED: Size = (2, 2, 2)
"""How often the generated objects are repeated."""


@dataclass(frozen=True, slots=True)
class Segmenting:
    """How fast maps on the disk become instances on the disk."""

    mvox_per_minute: float
    """Million voxels of volumes that fit into memory."""
    blockwise_mvox_per_minute: float
    """The same of larger ones."""
    fits_mvox: float
    """Million voxels up to which volumes fit into ``inference.memory_gb``."""
    limit: Literal["processors", "disk"]


def measure_segmenting(
    inference: InferenceConfig, folder: Path, disk: float, now: Clock
) -> Segmenting:
    """Measure the way from maps to instances, in memory and block by block."""
    cells = sample()
    voxel_size = cells.image.voxel_size
    tile_CZYX = noisy_maps(make_targets(cells.labels_ZYX, voxel_size).values_CZYX)
    maps_CZYX = np.tile(tile_CZYX, (1, *_REPEATED))
    stored = create_zarr(
        folder / "noisy.zarr",
        maps_CZYX.shape,
        maps_CZYX.dtype,
        voxel_size,
        name="maps",
        block=BLOCK,
    )
    with writing(folder):
        stored[...] = maps_CZYX
    speeds = []
    for memory in (2**62, 0):
        for maps in (zarr.array(tile_CZYX), stored):  # the first one compiles
            began = now()
            segment_stored(
                maps,
                folder / "instances.zarr",
                InstancesConfig(),
                voxel_size,
                memory=memory,
            )
        speeds.append(maps_CZYX[0].size / max(now() - began, 1e-9))
    is_disk = 4 * speeds[0] > DISK_IS_FULL * disk
    return Segmenting(
        mvox_per_minute=60 * speeds[0] / 1e6,
        blockwise_mvox_per_minute=60 * speeds[1] / 1e6,
        fits_mvox=inference.memory_gb * 1e3 / whole_memory((1, 1, 1)),
        limit="disk" if is_disk else "processors",
    )
