"""Instances of stored maps that fit into memory: read once, segmented at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box, Size, iter_boxes
from napari_volseg.instances.measuring import Measures, add_up, measure
from napari_volseg.instances.segmentation import segment
from napari_volseg.instances.written import BlockwiseResult, WritableArray
from napari_volseg.processors import default_threads
from napari_volseg.volume import ArrayLike

__all__ = ["segment_whole", "whole_memory"]

_BYTES = 16
"""Memory for each voxel, the maps and the instances included."""


def whole_memory(shape_ZYX: Size) -> int:
    """Return the bytes that `segment_whole` takes at most, seeds and table aside."""
    return prod(shape_ZYX) * _BYTES


def segment_whole(
    maps_CZYX: ArrayLike,
    labels_ZYX: WritableArray,
    config: InstancesConfig,
    *,
    block: Size,
    threads: int | None = None,
    report: Callable[[int, int], None],
) -> BlockwiseResult:
    """Write the instances of maps with all of them in memory.

    Labels, ids and measures are those of `segment_blocks`; what is spared is reading
    the maps three times, seeds on the disk, and halos.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1.
    labels_ZYX
        Where the instances go, block by block; threads write blocks side by side.
    block
        What is read and written at once: whole chunks or shards of the labels.
    report
        Called with the number of steps done and of all steps, four a block.
    """
    shape = tuple(maps_CZYX.shape[1:])
    threads = threads or default_threads()
    whole_CZYX = np.empty((3, *shape), np.uint8)
    boxes = list(iter_boxes(shape, block)) if min(shape) else []
    n_steps = 4 * len(boxes)

    def read(box: Box) -> None:
        whole_CZYX[:, *box.slices] = maps_CZYX[:, *box.slices]

    with ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(read, boxes), 1):
            report(done, n_steps)
        found_ZYX = segment(whole_CZYX, config, threads=threads)
        n = int(found_ZYX.max(initial=0))
        report(3 * len(boxes), n_steps)

        def write(box: Box) -> Measures:
            labels_ZYX[box.slices] = found_ZYX[box.slices].astype(labels_ZYX.dtype)
            around = box.grow((1, 1, 1), shape)
            maps = whole_CZYX[:, *box.slices]
            rows = np.zeros(n + 1, np.int32)
            return measure(found_ZYX[around.slices], maps, box, rows)

        parts = []
        for done, part in enumerate(pool.map(write, boxes), 3 * len(boxes) + 1):
            parts.append(part)
            report(done, n_steps)
    measures = add_up(parts, np.arange(n + 1, dtype=np.int64))
    return BlockwiseResult(measures, len(boxes), len(boxes))
