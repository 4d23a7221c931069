"""Predict the maps of a volume window by window, then its instances.

Windows lie on one grid that depends on the volume alone. They are blended in a
slab one window deep that moves through z, so memory does not grow with depth.

Shape suffixes: B batch, C channel (mask, boundary, distance), Z/Y/X space.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_volseg.checkpoint import Model, load_model
from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.devices import Compute, available_memory, choose_compute
from napari_volseg.errors import DataError
from napari_volseg.events import Event, Finished, Notice, Progress, Started
from napari_volseg.geometry import Box, Size, blend_profile, window_starts
from napari_volseg.instances import segment
from napari_volseg.io import create_zarr
from napari_volseg.networks import N_MAPS, required_multiple
from napari_volseg.review import instance_table, write_table
from napari_volseg.volume import Volume, check_finite, intensity_range, normalise

__all__ = ["WindowPlan", "plan_windows", "predict", "predict_box", "predict_slabs"]

_BYTES_PER_VOXEL = 24
"""Memory of the instance step for each voxel: maps, seeds, labels, table."""
_FLIPS = {"none": (), "yx": (3, 4), "zyx": (2, 3, 4)}


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Which windows of a volume are predicted, and how."""

    shape_ZYX: Size
    """Of the volume, padded to at least one window."""
    box: Box
    """The part that is wanted."""
    window: Size
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    """Window starts along each axis that touch the box, on the volume's grid."""
    overlap: float
    batch_size: int
    flips: tuple[int, ...]
    """Axes of a BCZYX tensor to average mirrored predictions over."""

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return prod(len(s) for s in self.starts)


def plan_windows(
    shape_ZYX: Size,
    window: Size,
    config: InferenceConfig,
    box: Box | None = None,
) -> WindowPlan:
    """Lay windows over a volume; for a box, those of the same grid that touch it."""
    padded = tuple(max(n, w) for n, w in zip(shape_ZYX, window, strict=True))
    wanted = box or Box.whole(shape_ZYX)
    z, y, x = (
        tuple(
            s
            for s in window_starts(n, w, config.overlap if n > w else 0.0)
            if s < b and s + w > a
        )
        for n, w, a, b in zip(padded, window, wanted.start, wanted.stop, strict=True)
    )
    return WindowPlan(
        shape_ZYX=padded,  # type: ignore[arg-type]  # three axes by construction
        box=wanted,
        window=window,
        starts=(z, y, x),
        overlap=config.overlap,
        batch_size=config.batch_size,
        flips=_FLIPS[config.flips],
    )


@dataclass(frozen=True, slots=True)
class Slab:
    """Finished maps of some slices of the wanted box, or only news of progress."""

    n_windows: int
    """Windows done so far."""
    z: int
    """First slice, counted from the start of the wanted box."""
    maps_CZYX: NDArray[np.uint8] | None
    """Probabilities × 255; None between two finished slabs."""


def predict_slabs(
    network: nn.Module,
    image: Volume,
    range_C2: NDArray[np.float32],
    plan: WindowPlan,
    compute: Compute,
) -> Iterator[Slab]:
    """Predict the wanted box, yielding its slices as they are finished.

    A voxel's probability is the mean over the windows that hold it, weighted by
    the product of three Gaussian profiles; that product's sum over the grid is
    separable, so it needs no count map.
    """
    starts_z, starts_y, starts_x = plan.starts
    depth, height, width = plan.window
    y0, x0 = starts_y[0], starts_x[0]
    extent = (starts_y[-1] + height - y0, starts_x[-1] + width - x0)
    profiles = [torch.from_numpy(blend_profile(n)) for n in plan.window]
    weight = _outer(*profiles).to(compute.device)
    plane = _norm(starts_y, profiles[1])[:, None] * _norm(starts_x, profiles[2])
    plane = plane.to(compute.device)
    norm_z = _norm(starts_z, profiles[0]).to(compute.device)
    total = torch.zeros((N_MAPS, depth, *extent), device=compute.device)
    done = 0
    for row, z in enumerate(starts_z):
        image_CZYX = _read_row(image, range_C2, plan, z)
        corners = product(starts_y, starts_x)
        while corner := list(islice(corners, plan.batch_size)):
            windows = np.stack(
                [image_CZYX[:, :, y : y + height, x : x + width] for y, x in corner]
            )
            maps = _forward(network, torch.from_numpy(windows), plan.flips, compute)
            for (y, x), probability in zip(corner, maps, strict=True):
                part = total[:, :, y - y0 : y - y0 + height, x - x0 : x - x0 + width]
                part.addcmul_(probability, weight)
            done += len(corner)
            yield Slab(done, 0, None)
        last = row == len(starts_z) - 1
        n_ready = depth if last else starts_z[row + 1] - z
        z_weights = norm_z[z - starts_z[0] : z - starts_z[0] + n_ready]
        ready = total[:, :n_ready] / (z_weights[:, None, None] * plane)
        slab = _cut(ready, plan.box, (z, y0, x0))
        if slab is not None:
            yield Slab(done, max(z, plan.box.start[0]) - plan.box.start[0], slab)
        total = torch.cat([total[:, n_ready:], torch.zeros_like(total[:, :n_ready])], 1)


def predict_box(
    network: nn.Module,
    image: Volume,
    range_C2: NDArray[np.float32],
    plan: WindowPlan,
    compute: Compute,
) -> NDArray[np.uint8]:
    """Return the maps (C, Z, Y, X) of the wanted box; probabilities × 255."""
    slabs = predict_slabs(network, image, range_C2, plan, compute)
    done = [slab.maps_CZYX for slab in slabs if slab.maps_CZYX is not None]
    return np.concatenate(done, axis=1)


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
    if note := _compare_voxel_size(model, image):
        yield Notice(note, "warning")
    shape = (N_MAPS, *image.shape_ZYX)
    stored = create_zarr(
        folder / "maps.zarr", shape, np.dtype(np.uint8), image.voxel_size, name="maps"
    )
    clock = _Clock(plan.n_windows)
    writer = _SlabWriter(stored, mask_ZYX)
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
    multiple = required_multiple(model.config.model, model.pyramid)
    z, y, x = (ceil(n / m) * m for n, m in zip(wanted, multiple, strict=True))
    return z, y, x


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


def _outer(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return z[:, None, None] * y[:, None] * x


def _norm(starts: tuple[int, ...], profile: Tensor) -> Tensor:
    """Sum of the profiles of all windows along one axis, from the first start."""
    n = len(profile)
    total = torch.zeros(starts[-1] - starts[0] + n)
    for start in starts:
        total[start - starts[0] : start - starts[0] + n] += profile
    return total


def _read_row(
    image: Volume, range_C2: NDArray[np.float32], plan: WindowPlan, z: int
) -> NDArray[np.float32]:
    """Read the slices of one row of windows, normalised and padded by reflection."""
    depth, height, width = plan.window
    y, x = plan.starts[1][-1] + height, plan.starts[2][-1] + width
    shape = image.shape_ZYX
    part = image.read((slice(z, min(z + depth, shape[0])), slice(0, y), slice(0, x)))
    check_finite(part, image.name)
    missing = [n - m for n, m in zip((depth, y, x), part.shape[1:], strict=True)]
    normal = normalise(part, range_C2)
    if any(n > 0 for n in missing):
        margins = [(0, max(0, n)) for n in missing]
        normal = np.pad(normal, ((0, 0), *margins), mode="reflect")
    return normal


@torch.inference_mode()
def _forward(
    network: nn.Module, windows: Tensor, flips: tuple[int, ...], compute: Compute
) -> Tensor:
    """Return probabilities (B, C, Z, Y, X), averaged over mirrored inputs."""
    x = windows.to(compute.device).contiguous(memory_format=compute.memory_format)
    views = [
        tuple(axis for axis, chosen in zip(flips, choice, strict=True) if chosen)
        for choice in product((False, True), repeat=len(flips))
    ]
    total: Tensor | None = None
    for axes in views:
        with compute.autocast():
            logits = network(x.flip(axes) if axes else x)[0]
        maps = torch.sigmoid(logits.float())
        maps = maps.flip(axes) if axes else maps
        total = maps if total is None else total + maps
    assert total is not None
    return total / len(views)


def _cut(
    ready: Tensor, box: Box, origin: tuple[int, int, int]
) -> NDArray[np.uint8] | None:
    """Return the part of finished slices that lies in the wanted box, as uint8."""
    have = Box(
        origin,
        tuple(o + n for o, n in zip(origin, ready.shape[1:], strict=True)),  # type: ignore[arg-type]
    )
    z0, z1 = max(have.start[0], box.start[0]), min(have.stop[0], box.stop[0])
    if z0 >= z1:
        return None
    wanted = Box((z0, *box.start[1:]), (z1, *box.stop[1:]))
    part = ready[(slice(None), *wanted.within(have))]
    values: NDArray[np.uint8] = (
        part.mul(255).round_().clamp_(0, 255).byte().cpu().numpy()
    )
    return values


class _SlabWriter:
    """Writes slices to the store in whole chunks, so that none is written twice."""

    def __init__(self, stored: Any, mask_ZYX: NDArray[np.bool_] | None) -> None:
        self._stored = stored
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
    stored[...] = labels
    table = instance_table(labels, maps_CZYX, image.voxel_size)
    write_table(folder / "instances.csv", table)
    return int(labels.max(initial=0))
