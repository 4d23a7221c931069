"""Predict the maps and the instances of a volume of any size into a job folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_volseg.allocator import give_back_memory
from napari_volseg.checkpoint import Model, load_model
from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.devices import available_memory
from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Notice, Progress, Started
from napari_volseg.fastest import choose_form
from napari_volseg.geometry import Size
from napari_volseg.instances import flood_memory, forget_blocks, segment_stored
from napari_volseg.intensities import compare_intensities
from napari_volseg.io import LazyArray, write_json, writing
from napari_volseg.mapjob import BLOCKS, MAPS, MapJob, prepare_maps
from napari_volseg.mapping import predict_maps
from napari_volseg.pipeline import reports_of
from napari_volseg.review import table_of_blocks, write_table
from napari_volseg.volume import UNKNOWN_VOXEL_SIZE, ArrayLike, Volume

__all__ = ["predict"]

_INSTANCES = "instances.zarr"
_TABLE = "instances.csv"
_RECORD = "instances.json"


def predict(
    model_path: Path,
    image: Volume,
    folder: Path,
    *,
    inference: InferenceConfig | None = None,
    instances: InstancesConfig | None = None,
    device: str = "auto",
    mask_ZYX: ArrayLike | None = None,
    block: Size | None = None,
    resume: bool = False,
    scheduler: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Predict maps and instances of a volume into a job folder.

    Writes ``maps.zarr`` (uint8, probability × 255) block by block, and then
    ``instances.zarr`` and ``instances.csv``. Memory is bounded by a column of blocks,
    not by the volume.

    Parameters
    ----------
    model_path
        A ``model.safetensors`` or a checkpoint of a run.
    image
        Axes (C)ZYX, read lazily and never written.
    inference, instances
        Settings in place of the model's own.
    mask_ZYX
        Non-zero where to look, may be lazy; the maps are 0 elsewhere.
    block
        Voxels (z, y, x) that are written and finished together.
    resume
        Go on where an earlier prediction into this folder ended, however it did; its
        finished blocks are kept if model, image and settings are the same.
    scheduler
        Predict the blocks on workers of dask.distributed: ``local``, ``processes=N`` or
        ``tcp://host:port``; the folder needs a ``request.json`` then.
    should_stop
        Asked after every batch of windows; what is finished is kept.

    Yields
    ------
    Event
        `Started`, then `Progress` and `Notice`, then `Finished`. A `Progress` says
        which parts of the maps became final.

    Raises
    ------
    DataError
        If model and image do not fit together, the image cannot be read, memory
        cannot suffice, the disk is full or workers left blocks out. Finished blocks
        are kept.
    """
    model = load_model(model_path)
    inference = inference or model.config.inference
    instances = instances or model.config.instances
    job = prepare_maps(
        model_path,
        model,
        image,
        folder,
        inference=inference,
        device=device,
        mask_ZYX=mask_ZYX,
        block=block,
        resume=resume,
    )
    finished = job.ledger.finished()
    room = _window_memory(model, job)
    tiles = job.tiles(round(inference.memory_gb * 1e9) - room)
    due = [[i for i in tile if i not in finished] for tile in tiles]
    due = [tile for tile in due if tile]
    memory = _check_memory(job, tiles, room)
    total = sum(job.plan(job.grid.around(tile)).n_windows for tile in tiles)
    left = sum(job.plan(job.grid.around(tile)).n_windows for tile in due)
    yield Started(
        "predict", str(job.forward.form), total, total - left, memory_bytes=memory
    )
    for sentence in (*model.notes, *job.notes):
        yield Notice(sentence)
    if notice := _compare_voxel_size(model, image, inference.match_voxel_size):
        yield notice
    if note := compare_intensities(
        image, model.intensities, model.config.data.percentiles, model.voxel_size
    ):
        yield Notice(note, "warning")
    # Workers elsewhere are not tried; what is asked for by name is.
    is_tried = "://" not in (scheduler or "") or inference.backend == "openvino"
    if is_tried and not inference.match_voxel_size:
        ids = [i for tile in due for i in tile]
        job = yield from choose_form(job, model_path, ids, left, should_stop)
    clock = _Clock(total, total - left, job.grid.n_blocks, len(finished))
    with closing(
        _spread(job, due, clock, scheduler, device)
        if scheduler
        else _predict_tiles(job, due, clock)
    ) as events:
        for event in events:
            yield event
            if should_stop():
                events.close()
                n = len(job.ledger.finished())
                kept = f"{n} of {job.grid.n_blocks} blocks of the maps are kept"
                yield Finished("stopped", f"Stopped; {kept}.", str(folder))
                return
    _check_complete(job)
    if n_empty := len(job.ledger.empty()):
        yield Notice(
            f"{n_empty} of {job.grid.n_blocks} blocks held nothing to predict and "
            "were skipped"
        )
    if isinstance(image.data, LazyArray) and (note := image.data.missing_note):
        yield Notice(note, "warning")
    give_back_memory()
    yield from _find_instances(job, instances, should_stop)


def _check_complete(job: MapJob) -> None:
    """Refuse maps with blocks that nobody predicted: they would read as zeros."""
    n_blocks = job.grid.n_blocks
    n_left = n_blocks - len(job.ledger.finished())
    if n_left > 0:
        raise DataError(
            f"{n_left} of {n_blocks} blocks were not predicted, because workers ended "
            "early: the others are kept, go on with --resume"
        )


def _window_memory(model: Model, job: MapJob) -> int:
    """Estimate the memory of a forward pass, where that is the machine's own."""
    if job.forward.compute.device == "cuda":
        return 0
    width = 2 if job.forward.compute.precision != "32" else 4
    features = sum(model.config.model.filters[:2]) * 4
    return prod(job.window) * job.inference.batch_size * features * width


def _check_memory(job: MapJob, tiles: list[list[int]], room: int) -> int:
    """Return what the prediction takes at most; refuse what cannot fit."""
    needed = max(
        room + job.memory(tiles[0]),
        flood_memory(job.image.shape_ZYX, _flood_limit(job)),
    )
    free = available_memory("cpu")
    if needed > free:
        raise DataError(
            f"predicting {job.image.name} needs about {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free: lower inference.memory_gb or "
            "inference.window_size, or close other programs"
        )
    return needed


def _flood_limit(job: MapJob) -> int:
    """Return the bytes within which instances are made."""
    return min(round(job.inference.memory_gb * 1e9), available_memory("cpu"))


def _compare_voxel_size(model: Model, image: Volume, is_matched: bool) -> Notice | None:
    if np.allclose(model.voxel_size, image.voxel_size, rtol=0.2):
        return None
    theirs = "×".join(f"{v:g}" for v in image.voxel_size)
    ours = "×".join(f"{v:g}" for v in model.voxel_size)
    what = (
        f"The voxels of {image.name} are {theirs} nm, the model learnt from {ours} nm"
    )
    then = (
        "the image is resampled to those on its way in"
        if is_matched
        else "objects look larger or smaller to it"
    )
    if image.voxel_size == UNKNOWN_VOXEL_SIZE:
        return Notice(
            f"{what}: {then}. Files that say no voxel size count as {theirs} nm, too: "
            "if this is one, give it with --voxel-size, or as the scale of the layer",
            "warning",
        )
    if is_matched:
        return Notice(f"{what}; {then}.")
    remedy = "check the result, or set inference.match_voxel_size=true"
    return Notice(f"{what}: {then}; {remedy}", "warning")


class _Clock:
    """Paces progress reports and estimates the time left."""

    def __init__(self, total: int, before: int, n_blocks: int, n_finished: int) -> None:
        self.total, self.done = total, before
        self.skipped = 0
        self.n_finished = n_finished
        self.ready: list[int] = []
        self._before, self._n_blocks = before, n_blocks
        self._start = time.monotonic()
        self._last = 0.0

    def due(self) -> bool:
        return time.monotonic() - self._last >= 0.3

    def progress(self, state: Literal["running", "segmenting"] = "running") -> Progress:
        self._last = time.monotonic()
        elapsed = self._last - self._start
        # Windows that are skipped take no time.
        n = self.done - self._before - self.skipped
        left = elapsed / n * (self.total - self.done) if n > 0 else None
        ready, self.ready = tuple(self.ready), []
        return Progress(
            self.done,
            self.total,
            elapsed,
            left,
            state=state,
            blocks=(self.n_finished, self._n_blocks),
            ready=ready,
        )


def _predict_tiles(
    job: MapJob, tiles: list[list[int]], clock: _Clock
) -> Generator[Event]:
    for tile in tiles:
        yield from _predict_tile(job, tile, clock)


def _spread(
    job: MapJob, tiles: list[list[int]], clock: _Clock, scheduler: str, device: str
) -> Generator[Event]:
    """Predict columns of blocks on other processes, saying how far they are."""
    if not tiles:
        return
    from napari_volseg.spreading import spread_blocks

    before, n_before, known = clock.done, clock.n_finished, -1
    due = sum(map(len, tiles))
    steps = spread_blocks(job, tiles, scheduler, device)
    with closing(steps):
        for finished, n_workers in steps:
            if n_workers != known:
                known = n_workers
                are = (
                    "1 worker is"
                    if n_workers == 1
                    else f"{n_workers or 'no'} workers are"
                )
                yield Notice(f"{are} at work for {scheduler}")
            clock.n_finished += len(finished)
            share = min(1.0, (clock.n_finished - n_before) / due)
            clock.done = before + int(share * (clock.total - before))
            for block_id in finished:
                box = job.grid.box(block_id)
                clock.ready += (*box.start, *box.stop)
            if clock.due():
                yield clock.progress()
    yield clock.progress()


def _predict_tile(job: MapJob, tile: list[int], clock: _Clock) -> Generator[Event]:
    """Predict the blocks of a column, saying how far it is."""
    before, skipped = clock.done, clock.skipped
    batch_size = job.forward.batch_size
    with closing(predict_maps(job, tile)) as steps:
        for step in steps:
            clock.done = before + step.n_windows
            clock.skipped = skipped + step.n_skipped
            clock.n_finished += len(step.written)
            for block_id in step.written:
                box = job.grid.box(block_id)
                clock.ready += (*box.start, *box.stop)
            if job.forward.batch_size < batch_size:
                batch_size = job.forward.batch_size
                yield Notice(
                    "Memory ran out: from here on windows are predicted "
                    f"{batch_size} at a time",
                    "warning",
                )
            if clock.due():
                yield clock.progress()
    yield clock.progress()


def _find_instances(
    job: MapJob, config: InstancesConfig, should_stop: Callable[[], bool]
) -> Iterator[Event]:
    """Segment the maps, saying how far it is."""
    folder, wanted = job.folder, config.model_dump(mode="json")
    record = folder / BLOCKS / _RECORD
    n = _found_before(folder, wanted)
    if n is None:
        with writing(record):
            record.unlink(missing_ok=True)
        clock = _Clock(1, 0, job.grid.n_blocks, job.grid.n_blocks)
        steps = reports_of(partial(_segment, job, config))
        with closing(steps):
            while n is None:
                try:
                    step = next(steps)
                except StopIteration as end:
                    n = int(end.value)
                    break
                if step is not None and clock.due():
                    clock.done, clock.total = step
                    yield clock.progress("segmenting")
                if should_stop():
                    steps.close()
                    kept = "the maps are kept, and resuming finds the instances"
                    yield Finished("stopped", f"Stopped; {kept}.", str(folder))
                    return
        write_json(record, {"instances": wanted, "n_instances": n})
    forget_blocks(folder / _INSTANCES)
    yield Finished(
        "completed", f"Found {n} instances.", str(folder), {"n_instances": float(n)}
    )


def _found_before(folder: Path, wanted: dict[str, Any]) -> int | None:
    """Return how many instances there are when they were made with these settings."""
    if not all((folder / name).exists() for name in (_INSTANCES, _TABLE)):
        return None
    try:
        found = json.loads((folder / BLOCKS / _RECORD).read_text("utf-8"))
        return int(found["n_instances"]) if found["instances"] == wanted else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _segment(
    job: MapJob, config: InstancesConfig, report: Callable[[tuple[int, int]], None]
) -> int:
    """Write instances and their table; each appears whole. Return their number."""
    folder, voxel_size = job.folder, job.image.voxel_size
    result = segment_stored(
        job.maps,
        folder / _INSTANCES,
        config,
        voxel_size,
        memory=_flood_limit(job),
        source=folder / MAPS,
        report=report,
    )
    table = table_of_blocks(result, job.image.shape_ZYX, voxel_size)
    write_table(folder / _TABLE, table)
    return result.n_instances
