"""How fast maps are predicted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from napari_volseg.bench.machine import DISK_IS_FULL, Clock
from napari_volseg.bench.volumes import sample
from napari_volseg.blocks import BLOCK, BlockGrid
from napari_volseg.checkpoint import load_model, model_metadata, save_model
from napari_volseg.fastest import choose_form
from napari_volseg.geometry import Size
from napari_volseg.io import create_zarr, open_volume, writing
from napari_volseg.mapjob import MapJob, prepare_maps
from napari_volseg.mapping import predict_maps
from napari_volseg.networks import build_network
from napari_volseg.planning import TrainPlan
from napari_volseg.volume import Volume

__all__ = ["Predicting", "measure_predicting"]

_SHARES = {"forms": 0.25, "passes": 0.05, "predict": 0.2}
"""Of the time that all measuring takes."""
_MOST_PASSES = 20
_MOST_WINDOWS = 2000
_WIDEST = 4
"""Windows side by side in the volume that is predicted."""
_LARGE: Size = (1024, 1024, 1024)
"""The volume whose prediction is foretold."""
_KEEPS_UP = 0.9
"""Share of the network's own speed above which the network is what limits."""
_SEED = 0
"""Seed of the weights: their speed is that of any others."""


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


def measure_predicting(
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
        limit = "disk" if written > DISK_IS_FULL * disk else "reading and writing"
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
    sample_ZYX = np.asarray(sample().image.data)
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
