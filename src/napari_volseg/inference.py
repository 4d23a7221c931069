"""Predict the maps and the instances of a volume into a job folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_volseg.checkpoint import Model, load_model
from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.devices import Compute, available_memory, choose_compute
from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Notice, Progress, Started
from napari_volseg.geometry import Size
from napari_volseg.instances import segment
from napari_volseg.io import create_zarr, writing
from napari_volseg.networks import N_MAPS, fit_window
from napari_volseg.review import instance_table, write_table
from napari_volseg.volume import Volume, intensity_range
from napari_volseg.windows import WindowPlan, plan_windows, predict_slabs

__all__ = ["predict"]

_BYTES_PER_VOXEL = 24
"""Memory of the instance step for each voxel: maps, seeds, labels, table."""


def predict(
    model_path: Path,
    image: Volume,
    folder: Path,
    *,
    inference: InferenceConfig | None = None,
    instances: InstancesConfig | None = None,
    device: str = "auto",
    mask_ZYX: NDArray[np.bool_] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Predict maps and instances of a volume into a job folder.

    Writes ``maps.zarr`` (uint8, probability × 255), ``instances.zarr`` and
    ``instances.csv``.

    Parameters
    ----------
    model_path
        A ``model.safetensors`` or a checkpoint of a run.
    image
        Axes (C)ZYX, read lazily and never written.
    inference, instances
        Settings in place of the model's own.
    mask_ZYX
        Where to look; the maps are 0 elsewhere.
    should_stop
        Asked after every batch of windows; what is finished is kept.

    Yields
    ------
    Event
        `Started`, then `Progress` and `Notice`, then `Finished`.

    Raises
    ------
    DataError
        If model and image do not fit together, or memory cannot suffice.
    """
    model = load_model(model_path)
    inference = inference or model.config.inference
    instances = instances or model.config.instances
    compute = choose_compute(
        model.config.model_copy(
            update={"system": model.config.system.model_copy(update={"device": device})}
        )
    )
    plan = plan_windows(image.shape_ZYX, _window(model, inference), inference)
    memory = _check_fit(model, image, mask_ZYX, plan, compute)
    range_C2 = intensity_range(image, model.config.data.percentiles)
    network = _to_device(model.network, compute)
    yield Started("predict", str(compute), plan.n_windows, memory_bytes=memory)
    for sentence in model.notes:
        yield Notice(sentence)
    if note := _compare_voxel_size(model, image):
        yield Notice(note, "warning")
    shape = (N_MAPS, *image.shape_ZYX)
    stored = create_zarr(
        folder / "maps.zarr", shape, np.dtype(np.uint8), image.voxel_size, name="maps"
    )
    clock = _Clock(plan.n_windows)
    writer = _SlabWriter(stored, folder / "maps.zarr", mask_ZYX)
    for slab in predict_slabs(network, image, range_C2, plan, compute):
        if slab.maps_CZYX is not None:
            writer.add(slab.maps_CZYX)
        if clock.due():
            yield clock.progress(slab.n_windows)
        if should_stop():
            writer.flush()
            done = f"{writer.n_written} of {shape[1]} slices of the maps are kept"
            yield Finished("stopped", f"Stopped; {done}.", str(folder))
            return
    writer.flush()
    yield clock.progress(plan.n_windows, "segmenting")
    n = _write_instances(stored, folder, image, instances)
    yield Finished(
        "completed", f"Found {n} instances.", str(folder), {"n_instances": float(n)}
    )


def _window(model: Model, inference: InferenceConfig) -> Size:
    wanted = inference.window_size or model.patch_size
    return fit_window(model.config.model, model.pyramid, wanted)


def _check_fit(
    model: Model,
    image: Volume,
    mask_ZYX: NDArray[np.bool_] | None,
    plan: WindowPlan,
    compute: Compute,
) -> int:
    if image.n_channels != model.in_channels:
        raise DataError(
            f"{image.name} has {image.n_channels} channels, but the model "
            f"{model.name} was trained on {model.in_channels}: choose the same channels"
        )
    if mask_ZYX is not None and mask_ZYX.shape != image.shape_ZYX:
        raise DataError(
            f"the mask has the shape {mask_ZYX.shape} but {image.name} has "
            f"{image.shape_ZYX}: they must cover the same voxels"
        )
    width = 2 if compute.precision != "32" else 4
    features = sum(model.config.model.filters[:2]) * 4
    windows = prod(plan.window) * plan.batch_size * features * width
    slab = plan.window[0] * prod(plan.shape_ZYX[1:]) * (4 * N_MAPS * 2 + 4)
    whole = prod(image.shape_ZYX) * _BYTES_PER_VOXEL
    needed = max(windows + slab, whole)
    total = available_memory("cpu")
    if whole > total:
        raise DataError(
            f"{image.name} needs about {whole / 1e9:.1f} GB to be segmented and "
            f"{total / 1e9:.1f} GB are free: predict a part of it, for instance "
            f"[0:{max(1, image.shape_ZYX[0] * total // (2 * whole))}]"
        )
    return needed


def _compare_voxel_size(model: Model, image: Volume) -> str | None:
    if np.allclose(model.voxel_size, image.voxel_size, rtol=0.2):
        return None
    theirs = "×".join(f"{v:g}" for v in image.voxel_size)
    ours = "×".join(f"{v:g}" for v in model.voxel_size)
    return (
        f"The voxels of {image.name} are {theirs} nm, the model learnt from {ours} nm: "
        "objects look larger or smaller to it, so check the result."
    )


def _to_device(network: nn.Module, compute: Compute) -> nn.Module:
    network = network.to(compute.device).eval()
    if compute.channels_last:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


class _SlabWriter:
    """Writes slices to the store in whole chunks, so that none is written twice."""

    def __init__(
        self, stored: Any, path: Path, mask_ZYX: NDArray[np.bool_] | None
    ) -> None:
        self._stored = stored
        self._path = path
        self._mask = mask_ZYX
        self._chunk = int(stored.chunks[1])
        self._waiting: list[NDArray[np.uint8]] = []
        self.n_written = 0

    def add(self, maps_CZYX: NDArray[np.uint8]) -> None:
        self._waiting.append(maps_CZYX)
        n = sum(a.shape[1] for a in self._waiting)
        if n >= self._chunk:
            self._write(n - n % self._chunk)

    def flush(self) -> None:
        self._write(sum(a.shape[1] for a in self._waiting))

    def _write(self, n: int) -> None:
        if n == 0:
            return
        joined = np.concatenate(self._waiting, axis=1)
        here = slice(self.n_written, self.n_written + n)
        part = joined[:, :n]
        if self._mask is not None:
            part = part * self._mask[here]
        with writing(self._path):
            self._stored[:, here] = part
        self.n_written += n
        self._waiting = [joined[:, n:]]


class _Clock:
    """Paces progress reports and estimates the time left."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._start = self._last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= 0.3

    def progress(self, done: int, state: Any = "running") -> Progress:
        self._last = time.monotonic()
        elapsed = self._last - self._start
        left = elapsed / done * (self._total - done) if done else None
        return Progress(done, self._total, elapsed, left, state=state)


def _write_instances(
    maps: Any, folder: Path, image: Volume, config: InstancesConfig
) -> int:
    maps_CZYX = np.asarray(maps[...])
    labels = segment(maps_CZYX, config)
    stored = create_zarr(
        folder / "instances.zarr",
        image.shape_ZYX,
        labels.dtype,
        image.voxel_size,
        name="instances",
        labels=True,
    )
    with writing(folder / "instances.zarr"):
        stored[...] = labels
    table = instance_table(labels, maps_CZYX, image.voxel_size)
    write_table(folder / "instances.csv", table)
    return int(labels.max(initial=0))
