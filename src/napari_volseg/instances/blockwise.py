"""Instances of volumes larger than memory: exactly those of the whole volume.

First the peaks of every block are reduced and joined, so that each seed has one id in
the whole volume. Then every block is flooded with a halo around it. What a block saw of
its neighbours' outermost voxels is compared with what they found themselves: as the
arrivals of all voxels have one solution (see `arrival`), equal faces prove that the
blocks together are the flood of the whole volume. A block that saw something else is
flooded again from the arrivals at its neighbours' faces, until none differs.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size, iter_boxes
from napari_volseg.instances.floodblock import SIDES, flood_block
from napari_volseg.instances.grouping import join_blocks
from napari_volseg.instances.levels import foreground_levels, seed_levels
from napari_volseg.instances.measuring import Measures, add_up, measure
from napari_volseg.instances.numbering import note_firsts
from napari_volseg.instances.peaks import Orders
from napari_volseg.instances.planes import Layers, Planes
from napari_volseg.instances.records import Records
from napari_volseg.instances.seeds import (
    BlockPeaks,
    peak_rule,
    reduce_block,
    seed_heights,
)
from napari_volseg.io import create_zarr, reopen_zarr
from napari_volseg.processors import default_threads
from napari_volseg.volume import ArrayLike

__all__ = ["BlockwiseResult", "WritableArray", "check", "segment_blocks"]


class WritableArray(Protocol):
    """What labels are written to: a Zarr array, an HDF5 dataset, a NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size (z, y, x) in voxels."""

    @property
    def dtype(self) -> Any:
        """Any type of integers that holds the ids."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...


@dataclass(frozen=True, slots=True)
class BlockwiseResult:
    """What was found."""

    measures: Measures
    """One row an instance, by rising id; see `review.table_of_blocks`."""
    n_blocks: int
    n_visits: int
    """How often a block was flooded: more where a halo was too small."""

    @property
    def n_instances(self) -> int:
        """Number of instances."""
        return len(self.measures.ids)


def segment_blocks(
    maps_CZYX: ArrayLike,
    labels_ZYX: WritableArray,
    config: InstancesConfig,
    *,
    block: Size = (256, 256, 256),
    halo: Size = (16, 16, 16),
    consecutive: bool = True,
    scratch: Path | None = None,
    kept: Path | None = None,
    threads: int | None = None,
    report: Callable[[int, int], None] | None = None,
) -> BlockwiseResult:
    """Write the instances of maps of any size; only a block of them is in memory.

    The instances are those of `segment`, voxel by voxel, with the same ids.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1; read block by block.
    labels_ZYX
        Where the instances go, in blocks too, so that blocks should be whole chunks
        or shards. What is in there is overwritten.
    block
        Voxels of a block along z, y and x: even numbers. About 20 bytes a voxel
        with its halo are held.
    halo
        By how many voxels a block is flooded beyond its faces at first. The result
        does not depend on it; one of about an object's diameter is fastest.
    consecutive
        Number instances 1…n. Otherwise ids have gaps and no certain order, and
        blocks without an instance that is dropped are written once only.
    scratch
        A folder for temporary files, about one byte a voxel; by default the
        system's.
    kept
        A folder for these files that stays. A call with the same arguments goes on
        from what is finished there, however the one before ended, and with the same
        result. The labels must be a Zarr array then, and no block may share a shard.
    report
        Called with the number of steps done and of all steps: four a block, and one
        more for each that is flooded again.

    Raises
    ------
    DataError
        If maps and labels do not fit, or there are too many seeds for the labels.
    """
    check(maps_CZYX, labels_ZYX, block)
    with ExitStack() as stack:
        if kept is None:
            place = tempfile.TemporaryDirectory(prefix="volseg-blocks-", dir=scratch)
            folder = Path(stack.enter_context(place))
        else:
            folder = kept
        records = Records(folder, durable=kept is not None)
        job = _Job(maps_CZYX, labels_ZYX, config, block, halo, records)
        job.threads = threads or default_threads()
        job.report = report or _say_nothing
        job.sow()
        job.flood()
        return job.finish(consecutive)


def _say_nothing(done: int, total: int) -> None: ...


def check(maps: ArrayLike, labels: WritableArray, block: Sequence[int]) -> None:
    """Refuse maps, labels and blocks that do not fit together."""
    if len(maps.shape) != 4 or maps.shape[0] != 3 or maps.dtype != np.uint8:
        raise DataError(
            f"the maps have the shape {maps.shape} and type {maps.dtype}: they must be "
            "the channels mask, boundary and distance (C, Z, Y, X) as uint8"
        )
    if tuple(labels.shape) != tuple(maps.shape[1:]):
        raise DataError(
            f"the labels have the shape {labels.shape} but the maps "
            f"{maps.shape[1:]}: both must cover the same voxels"
        )
    if np.dtype(labels.dtype).kind not in "iu":
        raise DataError(f"labels of {labels.dtype} cannot hold ids: use int64 or int32")
    if any(edge < 2 or edge % 2 for edge in block):
        raise ValueError(f"block edges must be even, not {block}")


class _Job:
    """One segmentation; its methods are its phases."""

    threads: int
    report: Callable[[int, int], None]

    def __init__(
        self,
        maps: ArrayLike,
        labels: WritableArray,
        config: InstancesConfig,
        block: Size,
        halo: Size,
        records: Records,
    ) -> None:
        self._maps, self._labels, self._config = maps, labels, config
        # A block has to see at least the faces of its neighbours.
        self._halo = tuple(max(1, h) for h in halo)
        self._records = records
        z, y, x = maps.shape[1:]
        self._shape: Size = (z, y, x)
        self._block = block
        self._boxes = list(iter_boxes(self._shape, block)) if min(self._shape) else []
        z, y, x = (-(-n // b) for n, b in zip(self._shape, block, strict=True))
        self._counts: Size = (z, y, x)
        self._strides = (y * x, x, 1)
        self._n_seeds = self._n_steps = self._n_again = self._n_visits = 0
        self._firsts = np.zeros(1, np.int64)
        self._rows = np.zeros(1, np.int32)
        self._seeds: Any = None

    def sow(self) -> None:
        """Find the seeds and write them to a temporary array."""
        if not self._boxes:
            return
        inner: list[int] = []
        planes = Planes(self._shape, self._records.folder)
        for i, box in enumerate(self._boxes):
            n_inner, layers = self._records.layers(i) or self._find_peaks(i)
            inner.append(n_inner)
            planes.add(layers, box)
            self._step()
        whole = join_blocks(
            lambda i: self._records.peaks(i, self._boxes[i]),
            self._counts,
            self._shape,
            planes.within,
            peak_rule(self._config),
        )
        # Ids of what is final in the volume and in groups of blocks come first.
        starts = np.cumsum([whole.n_seeds + 1, *inner]).tolist()
        n = starts[-1] - 1
        largest = min(np.iinfo(self._labels.dtype).max, 2**31 - 1)
        if n > largest:
            raise DataError(
                f"the maps have {n} seeds, more than the {largest} ids that there are "
                f"for labels of {self._labels.dtype}: raise instances.min_seed_size"
            )
        self._n_seeds, self._rows = n, np.zeros(n + 1, np.int32)
        self._firsts = np.full(n + 1, np.iinfo(np.int64).max)
        self._seeds = self._open_seeds()
        for i, orders in whole.orders():
            seeds_ZYX = (
                np.asarray(self._seeds[self._boxes[i].slices], np.int32)
                if self._records.is_marked(i, "sown")
                else self._paint(i, orders, starts[i])
            )
            note_firsts(seeds_ZYX, self._boxes[i].start, self._shape, self._firsts)
            self._step()

    def flood(self) -> None:
        """Flood every block, and again where a neighbour found something else."""
        for i in range(len(self._boxes)):
            if not self._is_labelled(i):
                # Its neighbours are right already where all was settled before.
                self._visit(i, with_halo=not self._records.is_settled)
            self._step()
        if self._records.is_settled:
            return
        due = [i for i in range(len(self._boxes)) if self._differs(i)]
        while due:
            self._n_again += len(due)
            for i in due:
                self._visit(i, with_halo=False)
                self._step()
            near = {n for i in due for n, *_ in self._neighbours(i)}
            due = [i for i in sorted(near.union(due)) if self._differs(i)]
        self._records.settle()

    def finish(self, consecutive: bool) -> BlockwiseResult:
        """Drop small instances, number the others, and return what there is."""
        parts = [self._records.measures(i) for i in range(len(self._boxes))]
        sizes = np.zeros(self._n_seeds + 1, np.int64)
        for part in parts:
            sizes[part.ids] += part.sums[:, 0]
        kept = np.flatnonzero(sizes >= max(self._config.min_size, 1))
        new_ids = np.zeros(self._n_seeds + 1, np.int64)
        new_ids[kept] = kept
        if consecutive:
            kept = kept[np.argsort(self._firsts[kept], kind="stable")]
            new_ids[kept] = np.arange(1, len(kept) + 1)
        for i, box in enumerate(self._boxes):
            ids = parts[i].ids
            is_new = (new_ids[ids] != ids).any()
            if is_new and not self._records.is_marked(i, "numbered"):
                labels_ZYX = np.asarray(self._labels[box.slices])
                self._records.unmark(i)
                self._labels[box.slices] = new_ids.astype(labels_ZYX.dtype)[labels_ZYX]
                self._records.mark(i, "numbered", self._labels, box)
            self._step()
        measures = add_up(parts, new_ids)
        return BlockwiseResult(measures, len(self._boxes), self._n_visits)

    def _heights(self, maps_CZYX: Any) -> NDArray[np.uint8]:
        maps = np.ascontiguousarray(maps_CZYX)
        return seed_heights(maps, seed_levels(self._config), self.threads)

    def _reduce(self, heights_ZYX: NDArray[np.uint8], box: Box) -> BlockPeaks:
        rule = peak_rule(self._config)
        return reduce_block(heights_ZYX, box, self._shape, rule, self.threads)

    def _find_peaks(self, i: int) -> tuple[int, Layers]:
        """Keep the peaks of a block; return how many are final, and its layers."""
        box = self._boxes[i]
        heights_ZYX = self._heights(self._maps[:, *box.slices])
        merged = self._reduce(heights_ZYX, box).merged
        layers: Layers = {
            (axis, side): np.asarray(heights_ZYX.take(-side, axis=axis))
            for _, axis, side in self._neighbours(i)
        }
        n_inner = merged.n_seeds - len(merged.peaks.seeds)
        self._records.keep_peaks(i, merged.peaks, n_inner, layers)
        return n_inner, layers

    def _open_seeds(self) -> Any:
        """Make the temporary array of seeds, or find it again."""
        path = self._records.folder / "seeds.zarr"
        if (path / "0" / "zarr.json").exists():
            return reopen_zarr(path)
        shutil.rmtree(path, ignore_errors=True)  # killed while it was made
        return create_zarr(
            path, self._shape, np.int32, (1, 1, 1), name="seeds", block=self._block
        )

    def _paint(self, i: int, orders: Orders, first_id: int) -> NDArray[np.int32]:
        """Write the seeds of a block."""
        box = self._boxes[i]
        heights_ZYX = self._heights(self._maps[:, *box.slices])
        seeds_ZYX = np.empty(box.shape, np.int32)
        block = self._reduce(heights_ZYX, box)
        block.paint(heights_ZYX, orders, first_id, seeds_ZYX, self.threads)
        self._seeds[box.slices] = seeds_ZYX
        self._records.mark(i, "sown", self._seeds, box)
        return seeds_ZYX

    def _is_labelled(self, i: int) -> bool:
        """Return whether the labels of a block are known."""
        return any(self._records.is_marked(i, s) for s in ("flooded", "numbered"))

    def _visit(self, i: int, *, with_halo: bool) -> None:
        """Flood a block and write its labels."""
        core = self._boxes[i]
        region = core.grow(self._halo if with_halo else (1, 1, 1), self._shape)
        around = {}
        if not with_halo:
            around = {
                (axis, side): self._records.face(n, "own", axis, 1 - side)
                for n, axis, side in self._neighbours(i)
            }
        maps_CZYX = np.ascontiguousarray(self._maps[:, *region.slices])
        flooded = flood_block(
            maps_CZYX,
            np.ascontiguousarray(self._seeds[region.slices], np.int32),
            foreground_levels(self._config),
            core,
            region,
            around,
            self.threads,
        )
        inside = maps_CZYX[:, *core.within(region)]
        measures = measure(flooded.around_ZYX, inside, core, self._rows)
        self._records.unmark(i)
        self._labels[core.slices] = flooded.labels_ZYX.astype(self._labels.dtype)
        self._records.keep_flood(i, flooded, measures)
        self._records.mark(i, "flooded", self._labels, core)
        self._n_visits += 1

    def _differs(self, i: int) -> bool:
        """Return whether a block saw its neighbours otherwise than they are."""
        return any(
            not np.array_equal(
                self._records.face(i, "seen", axis, side),
                self._records.face(n, "own", axis, 1 - side),
            )
            for n, axis, side in self._neighbours(i)
        )

    def _neighbours(self, i: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, axis and side of the blocks that share a face with a block."""
        box = self._boxes[i]
        for axis, side in SIDES:
            edge = self._shape[axis] if side else 0
            if (box.stop[axis] if side else box.start[axis]) != edge:
                yield i + self._strides[axis] * (1 if side else -1), axis, side

    def _step(self) -> None:
        self._n_steps += 1
        self.report(self._n_steps, 4 * len(self._boxes) + self._n_again)
