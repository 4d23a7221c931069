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
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

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
from napari_volseg.instances.written import BlockwiseResult, WritableArray, check
from napari_volseg.io import create_zarr, reopen_zarr
from napari_volseg.processors import default_threads, map_in_order
from napari_volseg.volume import ArrayLike

__all__ = ["segment_blocks"]


_ENOUGH = 20
"""Objects in a block that say how large most are."""

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    at_once: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> BlockwiseResult:
    """Write the instances of maps of any size; only few blocks are in memory.

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
        with its halo are held of each of those that are worked on at once.
    halo
        By how many voxels a block is flooded beyond its faces at first, and by up to
        twice as many once objects prove to be larger. The result does not depend on
        it; one of about an object's diameter is fastest.
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
    at_once
        How many blocks are worked on side by side, each by its share of the threads;
        they must not share a shard of the labels either. Faster than one after the
        other with all threads, because much of a block is work for one.
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
        job.threads, job.at_once = threads or default_threads(), at_once
        job.report = report or _say_nothing
        job.sow()
        job.flood()
        return job.finish(consecutive)


def _say_nothing(done: int, total: int) -> None: ...


class _Job:
    """One segmentation; its methods are its phases."""

    threads: int
    at_once: int
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
        self._halo = np.maximum(halo, 1)
        self._widest = np.maximum(np.multiply(halo, 2), 1)
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
        self._lock = Lock()
        self._seeds: Any = None

    def sow(self) -> None:
        """Find the seeds and write them to a temporary array."""
        if not self._boxes:
            return
        inner: list[int] = []
        planes = Planes(self._shape, self._records.folder)

        def keep(found: tuple[int, Layers]) -> None:
            n_inner, layers = found
            planes.add(layers, self._boxes[len(inner)])
            inner.append(n_inner)

        self._each(range(len(self._boxes)), self._find_peaks, keep)
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
        self._n_seeds = n
        self._firsts = np.full(n + 1, np.iinfo(np.int64).max)
        self._seeds = self._open_seeds()
        orders = ((i, orders, starts[i]) for i, orders in whole.orders())
        self._each(orders, self._sow_block)

    def flood(self) -> None:
        """Flood every block, and again where a neighbour found something else."""
        # Neighbours are right already where all was settled before.
        with_halo = not self._records.is_settled

        def visit(i: int) -> None:
            if not self._is_labelled(i):
                self._visit(i, self._share, with_halo=with_halo)

        self._each(range(len(self._boxes)), visit)
        if not with_halo:
            return
        due = [i for i in range(len(self._boxes)) if self._differs(i)]
        while due:
            self._n_again += len(due)
            # One by one: each begins with what the one before it found.
            for i in due:
                self._visit(i, self.threads, with_halo=False)
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

        def number(i: int) -> None:
            ids, box = parts[i].ids, self._boxes[i]
            is_new = (new_ids[ids] != ids).any()
            if is_new and not self._records.is_marked(i, "numbered"):
                labels_ZYX = np.asarray(self._labels[box.slices])
                self._records.unmark(i)
                self._labels[box.slices] = new_ids.astype(labels_ZYX.dtype)[labels_ZYX]
                self._records.mark(i, "numbered", self._labels, box)

        self._each(range(len(parts)), number)
        measures = add_up(parts, new_ids)
        return BlockwiseResult(measures, len(self._boxes), self._n_visits)

    @property
    def _share(self) -> int:
        """Threads of each of the blocks that are worked on at once."""
        return max(1, self.threads // self.at_once)

    def _each(
        self,
        items: Iterable[Item],
        work: Callable[[Item], Result],
        then: Callable[[Result], None] = lambda _: None,
    ) -> None:
        """Work on blocks, some side by side, then on what came of each in their order.

        None is being worked on any more when this ends, however it does.
        """
        with closing(map_in_order(work, items, self.at_once)) as results:
            for result in results:
                then(result)
                self._step()

    def _heights(self, maps_CZYX: Any) -> NDArray[np.uint8]:
        maps = np.ascontiguousarray(maps_CZYX)
        return seed_heights(maps, seed_levels(self._config), self._share)

    def _reduce(self, heights_ZYX: NDArray[np.uint8], box: Box) -> BlockPeaks:
        rule = peak_rule(self._config)
        return reduce_block(heights_ZYX, box, self._shape, rule, self._share)

    def _find_peaks(self, i: int) -> tuple[int, Layers]:
        """Keep the peaks of a block; return how many are final, and its layers."""
        if known := self._records.layers(i):
            return known
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

    def _sow_block(self, order: tuple[int, Orders, int]) -> None:
        """Write the seeds of a block if they are not yet, and note where they are."""
        i, orders, first_id = order
        box = self._boxes[i]
        seeds_ZYX = (
            np.asarray(self._seeds[box.slices], np.int32)
            if self._records.is_marked(i, "sown")
            else self._paint(i, orders, first_id)
        )
        with self._lock:
            note_firsts(seeds_ZYX, box.start, self._shape, self._firsts)

    def _paint(self, i: int, orders: Orders, first_id: int) -> NDArray[np.int32]:
        """Write the seeds of a block."""
        box = self._boxes[i]
        heights_ZYX = self._heights(self._maps[:, *box.slices])
        seeds_ZYX = np.empty(box.shape, np.int32)
        block = self._reduce(heights_ZYX, box)
        block.paint(heights_ZYX, orders, first_id, seeds_ZYX, self._share)
        self._seeds[box.slices] = seeds_ZYX
        self._records.mark(i, "sown", self._seeds, box)
        return seeds_ZYX

    def _is_labelled(self, i: int) -> bool:
        """Return whether the labels of a block are known."""
        return any(self._records.is_marked(i, s) for s in ("flooded", "numbered"))

    def _visit(self, i: int, threads: int, *, with_halo: bool) -> None:
        """Flood a block and write its labels."""
        core = self._boxes[i]
        halo = self._halo.tolist() if with_halo else (1, 1, 1)
        region = core.grow(halo, self._shape)
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
            threads,
        )
        inside = maps_CZYX[:, *core.within(region)]
        rows = np.zeros(self._n_seeds + 1, np.int32)
        measures = measure(flooded.around_ZYX, inside, core, rows)
        self._records.unmark(i)
        self._labels[core.slices] = flooded.labels_ZYX.astype(self._labels.dtype)
        self._records.keep_flood(i, flooded, measures)
        self._records.mark(i, "flooded", self._labels, core)
        with self._lock:
            self._n_visits += 1
            self._widen(measures)

    def _widen(self, measures: Measures) -> None:
        """Let the halo hold most objects; of too few, one is too much of a chance."""
        if len(measures.ids) >= _ENOUGH:
            edges = measures.boxes[:, 3:] - measures.boxes[:, :3]
            most = np.percentile(edges, 95, axis=0).astype(int)
            self._halo = np.clip(most, self._halo, self._widest)

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
