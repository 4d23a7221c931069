"""What this machine trains, predicts and segments in a minute, and what limits it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from napari_volseg.blocks import BLOCK, BlockGrid
from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.devices import available_memory
from napari_volseg.fastest import choose_form
from napari_volseg.geometry import Size
from napari_volseg.instances import segment_stored
from napari_volseg.instances.whole import whole_memory
from napari_volseg.io import create_zarr, open_volume, writing
from napari_volseg.mapjob import MapJob, prepare_maps
from napari_volseg.mapping import predict_maps
from napari_volseg.networks import build_network
from napari_volseg.planning import TrainPlan
from napari_volseg.profiling import LoadingProfile, profile_loading
from napari_volseg.runs import TrainingPair
from napari_volseg.sample_data import make_sample
from napari_volseg.settling import settle
from napari_volseg.targets import make_targets
from napari_volseg.volume import LabelledVolume, Volume

__all__ = ["Bench", "Predicting", "Segmenting", "Training", "bench"]

_SHARES = {"train": 0.4, "forms": 0.25, "passes": 0.05, "predict": 0.2}
"""Of the time; segmenting takes what it takes."""
_MOST_STEPS = 50
_MOST_PASSES = 20
_MOST_WINDOWS = 2000
_WIDEST = 4
"""Windows side by side in the volume that is predicted."""
_LARGE: Size = (1024, 1024, 1024)
"""The volume whose prediction is foretold."""
_KEEPS_UP = 0.9
"""Share of the network's own speed above which the network is what limits."""
_FULL = 0.5
"""Share of the disk's speed above which the disk is what limits."""
_DISK_BYTES = 2**26
_SEGMENTED: Size = (2, 2, 2)
"""How often the generated objects are repeated for segmenting."""
_SEED = 0
"""Seed of the weights: their speed is that of any others."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Training:
    """How fast a network is trained."""

    steps_per_minute: float
    patches_per_minute: float
    mvox_per_minute: float
    """Million voxels of patches."""
    ready_steps_per_minute: float
    """The same if patches lay ready."""
    lost_to_data: float
    """Share of the time."""
    limit: Literal["network", "data", "processors"]
    """``processors``: preparing patches takes them from the network."""
    advice: str


@dataclass(frozen=True, slots=True)
class Predicting:
    """How fast maps are predicted, from an image on the disk to maps on the disk."""

    form: str
    """In which the network is computed."""
    note: str
    """How the form was chosen."""
    window: Size
    windows_per_minute: float
    network_windows_per_minute: float
    """The same if only the network took time."""
    mvox_per_minute: float
    """Million voxels of a volume of 1024³ voxels."""
    visits: float
    """How often a voxel of that volume passes through the network."""
    memory_costs: float
    """How many times as long that takes as with memory for the volume's whole area."""
    memory_gb_for_all: float
    """What ``inference.memory_gb`` would have to be for that."""
    limit: Literal["network", "disk", "reading and writing"]


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


@dataclass(frozen=True, slots=True)
class Bench:
    """Speeds of one machine; minutes are extrapolated from seconds."""

    device: str
    processors: int
    memory_gb: float
    """Free on the device at the start."""
    disk_mb_per_second: float
    """Written to the folder, and flushed."""
    architecture: str
    patch_size: Size
    patches_per_step: int
    train: Training
    predict: Predicting
    segment: Segmenting
    peak_memory_gb: float
    """Of this process, all the while."""
    seconds: float
    """That measuring took."""


def bench(
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    folder: Path,
    *,
    seconds: float = 40.0,
    now: Clock = time.perf_counter,
) -> Bench:
    """Train some steps, predict and segment generated volumes, and keep nothing.

    Parameters
    ----------
    plan, pairs
        The training; its network is predicted with, its weights being random.
    folder
        An empty folder, on the disk that counts.
    seconds
        About how long, on a machine on which a step takes a second or less: a few
        steps, some windows and one volume are the least.
    now
        The clock, in seconds.

    Raises
    ------
    DataError
        If memory or the disk does not suffice.
    """
    started = now()
    free = available_memory(plan.compute.device)
    disk = _disk_speed(folder, now)
    plan = settle(plan)
    profile = profile_loading(
        plan,
        pairs,
        folder,
        steps=_MOST_STEPS,
        threads=(plan.config.system.training.num_workers,),
        seconds=_SHARES["train"] * seconds,
        now=now,
    )
    predicting = _predict(plan, folder, seconds, disk, now)
    segmenting = _segment(plan.config.inference, folder, disk, now)
    return Bench(
        device=plan.device_in_words,
        processors=_processors(),
        memory_gb=free / 1e9,
        disk_mb_per_second=disk / 1e6,
        architecture=plan.config.model.architecture,
        patch_size=plan.patch_size,
        patches_per_step=profile.batch_size,
        train=_training(profile),
        predict=predicting,
        segment=segmenting,
        peak_memory_gb=_peak_memory() / 1e9,
        seconds=now() - started,
    )


def _training(profile: LoadingProfile) -> Training:
    trial = next(t for t in profile.trials if t.threads == profile.threads)
    steps = 60_000 / (trial.wait_ms + trial.step_ms)
    patches = steps * profile.batch_size
    limits: dict[str, Literal["network", "data", "processors"]] = {
        "ready": "network",
        "slow": "data",
        "contended": "processors",
    }
    return Training(
        steps_per_minute=steps,
        patches_per_minute=patches,
        mvox_per_minute=patches * prod(profile.patch_size) / 1e6,
        ready_steps_per_minute=60_000 / profile.ready_step_ms,
        lost_to_data=trial.lost,
        limit=limits[profile.verdict],
        advice=profile.advice,
    )


def _predict(
    plan: TrainPlan, folder: Path, seconds: float, disk: float, now: Clock
) -> Predicting:
    """Measure a prediction between passes of the network over windows alone."""
    model = folder / "model.safetensors"
    _save_network(plan, model)
    job = _job(plan, model, folder / "trial", plan.patch_size)
    deadline = now() + _SHARES["forms"] * seconds
    job, note = _fastest(job, model, lambda: now() > deadline)
    rng = np.random.default_rng(0)
    size = (job.forward.batch_size, job.image.n_channels, *job.window)
    windows = rng.random(size, np.float32)
    before = _pass_seconds(job, windows, _SHARES["passes"] * seconds, now)
    wanted = _SHARES["predict"] * seconds / before
    form = job.forward.form
    job = _job(plan, model, folder / "maps", _shape_of(job, wanted)).in_form(form)
    began = now()
    with closing(predict_maps(job, range(job.grid.n_blocks))) as steps:
        for _ in steps:
            pass
    n_windows, taken = job.plan().n_windows, now() - began
    after = _pass_seconds(job, windows, _SHARES["passes"] * seconds, now)
    bare = (before + after) / 2
    rate = n_windows / max(taken, 1e-9)
    visits, costs, enough = _foretell(job)
    voxels = rate * prod(job.window) / visits
    limit: Literal["network", "disk", "reading and writing"] = "network"
    if rate * bare < _KEEPS_UP:
        written = job.maps.shape[0] * voxels
        limit = "disk" if written > _FULL * disk else "reading and writing"
    return Predicting(
        form=str(form),
        note=note,
        window=job.window,
        windows_per_minute=60 * rate,
        network_windows_per_minute=60 / bare,
        mvox_per_minute=60 * voxels / 1e6,
        visits=visits,
        memory_costs=costs,
        memory_gb_for_all=enough / 1e9,
        limit=limit,
    )


def _save_network(plan: TrainPlan, path: Path) -> None:
    """Write a model with random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = build_network(plan.config.model, plan.in_channels, plan.pyramid)
    metadata = model_metadata(
        plan.config,
        plan.pyramid,
        plan.in_channels,
        plan.voxel_size,
        plan.patch_size,
        0,
        {},
    )
    save_model(path, network.state_dict(), metadata)


def _job(plan: TrainPlan, model: Path, folder: Path, shape_ZYX: Size) -> MapJob:
    """Prepare the prediction of a generated image on the disk."""
    with writing(folder):
        folder.mkdir()
    sample_ZYX = np.asarray(_sample().image.data)
    reps = [-(-n // m) for n, m in zip(shape_ZYX, sample_ZYX.shape, strict=True)]
    z, y, x = shape_ZYX
    values = np.tile(sample_ZYX, reps)[None, :z, :y, :x]
    values = np.broadcast_to(values, (plan.in_channels, z, y, x))
    path = folder / "image.zarr"
    stored = create_zarr(
        path, values.shape, values.dtype, plan.voxel_size, name="image"
    )
    with writing(path):
        stored[...] = values
    return prepare_maps(
        model,
        load_model(model),
        open_volume(str(path)),
        folder,
        inference=plan.config.inference.model_copy(
            update={"match_voxel_size": False, "skip_below": 0.0}
        ),
        device=plan.compute.device,
    )


def _fastest(
    job: MapJob, model: Path, is_over: Callable[[], bool]
) -> tuple[MapJob, str]:
    """Let the form be chosen as for a prediction of hours, while there is time."""
    note = "There is one form of the network here"
    news = choose_form(job, model, range(job.grid.n_blocks), 10**9, is_over)
    while True:
        try:
            event = next(news)
        except StopIteration as end:
            if is_over():
                note = "There was no time to try other forms of the network: give more"
            return end.value, note
        note = getattr(event, "message", note)


def _pass_seconds(
    job: MapJob, windows: NDArray[np.float32], seconds: float, now: Clock
) -> float:
    """Return the seconds of a window in passes of the network, after one to warm up."""
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < _MOST_PASSES):
        began = now()
        job.forward(windows)[0, 0, 0, 0, 0].item()  # waits for the device
        times.append(now() - began)
    return max(float(np.median(times[1:])) / len(windows), 1e-9)


def _shape_of(job: MapJob, n_windows: float) -> Size:
    """Return the shape of a volume of about so many windows, deeper than wide."""
    n = int(min(max(n_windows, 1), _MOST_WINDOWS))
    n_x = min(_WIDEST, round(n ** (1 / 3)))
    steps = [max(1, round(w * (1 - job.inference.overlap))) for w in job.window]
    numbers = (max(1, n // n_x**2), n_x, n_x)
    z, y, x = (
        w + (k - 1) * s for w, k, s in zip(job.window, numbers, steps, strict=True)
    )
    return z, y, x


def _foretell(job: MapJob) -> tuple[float, float, float]:
    """Return of a large volume how often it is visited, and what memory costs it.

    Returns
    -------
    visits, costs, enough
        Visits of a voxel; how many times those that memory for the whole area would
        leave; the bytes of that.
    """
    shape = tuple(max(n, w) for n, w in zip(_LARGE, job.window, strict=True))
    size = (job.image.n_channels, *shape)
    data = np.broadcast_to(np.zeros(1, np.uint8), size)
    large = replace(
        job,
        image=Volume(data, job.image.voxel_size, "a large volume"),
        grid=BlockGrid(shape, BLOCK),  # type: ignore[arg-type]  # three axes
    )
    tiles = large.tiles(round(job.inference.memory_gb * 1e9))
    n = sum(large.plan(large.grid.around(tile)).n_windows for tile in tiles)
    least = large.plan().n_windows
    enough = large.memory(range(large.grid.n_blocks))
    return n * prod(job.window) / prod(shape), n / least, float(enough)


def _segment(
    inference: InferenceConfig, folder: Path, disk: float, now: Clock
) -> Segmenting:
    """Measure the way from maps to instances, in memory and block by block."""
    sample = _sample()
    voxel_size = sample.image.voxel_size
    tile_CZYX = _noisy(make_targets(sample.labels_ZYX, voxel_size).values_CZYX)
    maps_CZYX = np.tile(tile_CZYX, (1, *_SEGMENTED))
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
    is_disk = 4 * speeds[0] > _FULL * disk
    return Segmenting(
        mvox_per_minute=60 * speeds[0] / 1e6,
        blockwise_mvox_per_minute=60 * speeds[1] / 1e6,
        fits_mvox=inference.memory_gb * 1e3 / whole_memory((1, 1, 1)),
        limit="disk" if is_disk else "processors",
    )


@lru_cache(maxsize=1)
def _sample() -> LabelledVolume:
    return make_sample()


def _noisy(targets_CZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return maps as a network makes them: too low, blurred and noisy."""
    rng = np.random.default_rng(0)
    maps = [
        share * ndimage.gaussian_filter(channel.astype(np.float32), (0.3, 1.2, 1.2))
        for channel, share in zip(targets_CZYX, (0.9, 0.8, 0.7), strict=True)
    ]
    noisy = np.stack(maps) + rng.normal(0, 6, targets_CZYX.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _disk_speed(folder: Path, now: Clock) -> float:
    """Return the bytes a second that the disk of a folder takes, flushed."""
    path = folder / "disk"
    part = np.random.default_rng(0).integers(0, 256, 2**22, np.uint8).tobytes()
    with writing(path):
        began = now()
        with path.open("wb") as file:
            for _ in range(_DISK_BYTES // len(part)):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        taken = now() - began
        path.unlink()
    return _DISK_BYTES / max(taken, 1e-9)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _peak_memory() -> int:
    """Return the most bytes that this process held, or holds where that is unknown."""
    try:
        import resource
    except ImportError:
        return int(psutil.Process().memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)
