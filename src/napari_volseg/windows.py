"""Predict the maps of a volume window by window.

Windows lie on one grid that depends on the volume alone. They are blended in a
slab one window deep that moves through z, so memory does not grow with depth.

Shape suffixes: B batch, C channel (mask, boundary, distance), Z/Y/X space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_volseg.config import InferenceConfig
from napari_volseg.devices import Compute
from napari_volseg.geometry import Box, Size, blend_profile, window_starts
from napari_volseg.networks import N_MAPS
from napari_volseg.volume import Volume, check_finite, normalise

__all__ = ["Slab", "WindowPlan", "plan_windows", "predict_box", "predict_slabs"]

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
