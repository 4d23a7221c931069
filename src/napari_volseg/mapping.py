"""Predict the maps of blocks, each written as one whole shard and then marked.

Any number of processes may predict blocks of one job folder at the same time, given
that no two are given the same block: `prepare_maps` once, then `predict_blocks` with
the folder and the numbers of some blocks in each of them. Blocks that lie beside each
other are better given together, as they share windows. The result does not depend on
how blocks are given out, up to the rounding of floats where windows are batched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box
from napari_volseg.mapjob import MapJob, join_job
from napari_volseg.networks import N_MAPS
from napari_volseg.pipeline import WriteBehind
from napari_volseg.windows import Slab, predict_slabs

__all__ = ["Step", "predict_blocks", "predict_maps"]

_WAITING = 4
"""Blocks that may wait to be written."""


@dataclass(frozen=True, slots=True)
class Step:
    """News of a prediction in progress."""

    n_windows: int
    """Windows done so far, skipped ones included."""
    n_skipped: int
    """Windows that no block needed."""
    written: tuple[int, ...]
    """Blocks that were finished since the last step."""


def predict_maps(job: MapJob, block_ids: Collection[int]) -> Generator[Step]:
    """Predict some blocks, each written and marked as soon as it is complete.

    They should lie beside each other: the box around them is passed through along z,
    and windows that several of them share are computed once. Reading, the network and
    writing overlap. When the generator is closed, blocks that are complete are written
    first.

    Raises
    ------
    DataError
        If the image cannot be read or the disk is full; finished blocks are kept.
    """
    wanted = set(block_ids)
    if not wanted:
        return
    box = job.grid.around(wanted)

    def is_needed(window: Box) -> bool:
        touched = [i for i in job.grid.touching(window) if i in wanted]
        # All are looked at, so that each is known to be empty or not.
        return sum(not job.is_empty(i) for i in touched) > 0

    levels = _Levels(job, box, wanted)
    slabs = predict_slabs(
        job.forward, job.image, job.range_C2, job.plan(box), is_needed
    )
    writer = WriteBehind[tuple[int, NDArray[np.uint8]]](
        lambda item: job.write(*item), _WAITING
    )
    done = skipped = 0
    with writer, closing(slabs):
        for slab in slabs:
            done, skipped = slab.n_windows, slab.n_skipped
            for item in levels.add(slab):
                writer.put(item)
            yield Step(done, skipped, tuple(i for i, _ in writer.take_written()))
    rest = {i for i, _ in writer.take_written()}
    rest.update(i for i in wanted if job.is_empty(i))
    yield Step(done, skipped, tuple(sorted(rest)))


def predict_blocks(
    folder: Path,
    block_ids: Collection[int],
    device: str = "auto",
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Predict some blocks of a job folder that `prepare_maps` prepared.

    All that is needed is read from the folder, and model and image stay open for the
    next call in the same process. Blocks that are finished already are left out.

    Parameters
    ----------
    folder
        The job folder, with ``request.json`` and ``blocks/plan.json``.
    block_ids
        Numbers of blocks, `BlockGrid` says which; of no other process at that time.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    should_stop
        Asked after every batch of windows; blocks that are complete are written first.

    Returns
    -------
    int
        Number of blocks that were finished by this call.

    Raises
    ------
    DataError
        As `predict_maps`; or if the job is not prepared, or its model has changed.
    """
    job = join_job(Path(folder).absolute(), device)
    due = set(block_ids) - job.ledger.finished()
    with closing(predict_maps(job, due)) as steps:
        for _ in steps:
            if should_stop():
                break
    return len(due & job.ledger.finished())


class _Levels:
    """Collects slices until the blocks of one level are complete."""

    def __init__(self, job: MapJob, box: Box, wanted: set[int]) -> None:
        self._job, self._box, self._wanted = job, box, wanted
        self._open: dict[int, NDArray[np.uint8]] = {}

    def add(self, slab: Slab) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Take finished slices; yield the blocks that are complete with them."""
        if slab.maps_CZYX is None:
            return
        first = self._box.start[0] + slab.z
        last = first + slab.maps_CZYX.shape[1]
        edge = self._job.grid.block[0]
        for level in range(first // edge, -(-last // edge)):
            start = level * edge
            stop = min(start + edge, self._box.stop[0])
            a, b = max(first, start), min(last, stop)
            if level not in self._open:
                size = (N_MAPS, stop - start, *self._box.shape[1:])
                self._open[level] = np.zeros(size, np.uint8)
            self._open[level][:, a - start : b - start] = slab.maps_CZYX[
                :, a - first : b - first
            ]
        # Slices come in order: nothing more comes for what lies before them.
        for level in sorted(self._open):
            if min((level + 1) * edge, self._box.stop[0]) <= last:
                yield from self._cut(level, self._open.pop(level))

    def _cut(
        self, level: int, maps_CZYX: NDArray[np.uint8]
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        grid = self._job.grid
        start = (level * grid.block[0], *self._box.start[1:])
        stop = (start[0] + maps_CZYX.shape[1], *self._box.stop[1:])
        here = Box(start, stop)
        for block_id in grid.touching(here):
            if block_id in self._wanted and not self._job.is_empty(block_id):
                part = (slice(None), *grid.box(block_id).within(here))
                yield block_id, maps_CZYX[part]
