"""Predict the maps of a box window by window.

Windows lie on one grid that depends on the volume alone, so that a voxel has the same
maps in whatever box it is predicted. They are blended in a slab one window deep that
moves through the box along z: memory grows with the area of the box, not with its
depth, nor with the volume. The next slices are read meanwhile.

Shape suffixes: B batch, C channel (mask, boundary, distance), Z/Y/X space.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_volseg.config import InferenceConfig
from napari_volseg.devices import Compute
from napari_volseg.errors import DataError
from napari_volseg.forms import Form
from napari_volseg.forward import Forward
from napari_volseg.geometry import Box, Size, blend_profile, window_starts
from napari_volseg.networks import N_MAPS
from napari_volseg.pipeline import read_ahead
from napari_volseg.volume import Volume, check_finite, normalise

__all__ = [
    "Slab",
    "WindowPlan",
    "count_touching",
    "plan_windows",
    "predict_box",
    "predict_slabs",
    "read_window",
    "slab_memory",
]

_FLIPS = {"none": (), "yx": (3, 4), "zyx": (2, 3, 4)}
_SLICES = 8
"""Slices that are normalised at once: what that takes beside them is then little."""


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
    n_skipped: int
    """Those of them that nobody needed."""
    z: int
    """First slice, counted from the start of the wanted box."""
    maps_CZYX: NDArray[np.uint8] | None
    """Probabilities × 255; None between two finished slabs."""


def predict_slabs(
    forward: Forward,
    image: Volume,
    range_C2: NDArray[np.float32],
    plan: WindowPlan,
    is_needed: Callable[[Box], bool] = lambda window: True,
) -> Generator[Slab]:
    """Predict the wanted box, yielding its slices as they are finished.

    A voxel's probability is the mean over the windows that hold it, weighted by
    the product of three Gaussian profiles; that product's sum over the grid is
    separable, so it needs no count map.

    Parameters
    ----------
    is_needed
        Asked about every window, in another thread. Where none is needed, nothing is
        read; the maps are right only where all windows are.
    """
    starts_z, starts_y, starts_x = plan.starts
    depth, height, width = plan.window
    box, device = plan.box, forward.compute.device
    profiles = [torch.from_numpy(blend_profile(n)) for n in plan.window]
    weight = _outer(*profiles).to(device)
    plane = _norm(starts_y, profiles[1], box.start[1], box.stop[1])[:, None]
    plane = (plane * _norm(starts_x, profiles[2], box.start[2], box.stop[2])).to(device)
    norm_z = _norm(starts_z, profiles[0], starts_z[0], starts_z[-1] + depth).to(device)
    total = torch.zeros((N_MAPS, depth, *plane.shape), device=device)
    y0, x0 = starts_y[0], starts_x[0]
    per_row = len(starts_y) * len(starts_x)
    done = skipped = 0
    touched = starts_z[0]  # up to here there are sums in the slab
    with closing(read_ahead(_read_rows(image, range_C2, plan, is_needed))) as rows:
        for row, (corners, image_CZYX) in enumerate(rows):
            z = starts_z[row]
            skipped += per_row - len(corners)
            done += per_row - len(corners)
            first = 0
            while first < len(corners):
                taken = corners[first : first + forward.batch_size]
                windows = np.stack(
                    [
                        image_CZYX[
                            :, :, y - y0 : y - y0 + height, x - x0 : x - x0 + width
                        ]
                        for y, x in taken
                    ]
                )
                for (y, x), maps in zip(taken, forward(windows), strict=True):
                    _add(total, maps, weight, box, (y, x))
                first += len(taken)
                done += len(taken)
                touched = z + depth
                yield Slab(done, skipped, 0, None)
            del image_CZYX
            is_last = row == len(starts_z) - 1
            n = depth if is_last else starts_z[row + 1] - z
            first_z, last_z = max(z, box.start[0]), min(z + n, box.stop[0])
            if first_z < min(last_z, touched):
                norm = norm_z[first_z - starts_z[0] : last_z - starts_z[0]]
                maps = _round(total[:, first_z - z : last_z - z], norm, plane)
                yield Slab(done, skipped, first_z - box.start[0], maps)
            if not is_last:
                _move_up(total, n)


def predict_box(
    network: nn.Module,
    image: Volume,
    range_C2: NDArray[np.float32],
    plan: WindowPlan,
    compute: Compute,
) -> NDArray[np.uint8]:
    """Return the maps (C, Z, Y, X) of the wanted box; probabilities × 255."""
    forward = Forward(network, Form(compute), plan.flips, plan.batch_size)
    slabs = predict_slabs(forward, image, range_C2, plan)
    done = [slab.maps_CZYX for slab in slabs if slab.maps_CZYX is not None]
    return np.concatenate(done, axis=1)


def read_window(
    image: Volume,
    range_C2: NDArray[np.float32],
    plan: WindowPlan,
    corner: Sequence[int],
) -> NDArray[np.float32]:
    """Return the window (C, Z, Y, X) at a corner (z, y, x) as the network gets it."""
    z, y, x = corner
    alone = replace(plan, starts=((z,), (y,), (x,)))
    return _read_row(image, range_C2, alone, z, None, 0)


def count_touching(starts: Sequence[int], window: int, start: int, stop: int) -> int:
    """Return how many windows along an axis share voxels with a range."""
    return bisect_left(starts, stop) - bisect_right(starts, start - window)


def slab_memory(
    plan: WindowPlan, n_channels: int, size_YX: tuple[int, int]
) -> tuple[int, int]:
    """Return the bytes that predicting a box of some height and width takes.

    Returns
    -------
    host, device
        Images of two rows of windows, read and normalised; sums of maps.
    """
    depth, height, width = plan.window
    y, x = (
        min(n, s + 2 * (w - 1))
        for n, s, w in zip(plan.shape_ZYX[1:], size_YX, (height, width), strict=True)
    )
    reading = depth * 8 + _SLICES * 32
    host = n_channels * y * x * (2 * 4 * depth + reading)
    return host, prod(size_YX) * depth * N_MAPS * 5


def _outer(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return z[:, None, None] * y[:, None] * x


def _norm(starts: Sequence[int], profile: Tensor, first: int, last: int) -> Tensor:
    """Sum of the profiles of all windows along one axis, from first to last."""
    n, origin = len(profile), starts[0]
    total = torch.zeros(starts[-1] - origin + n)
    for start in starts:
        total[start - origin : start - origin + n] += profile
    return total[first - origin : last - origin]


def _read_rows(
    image: Volume,
    range_C2: NDArray[np.float32],
    plan: WindowPlan,
    is_needed: Callable[[Box], bool],
) -> Generator[tuple[list[tuple[int, int]], NDArray[np.float32]]]:
    """Yield, for each row of windows, their corners (y, x) and the image of all.

    What a row shares with the one before is not read again.
    """
    depth, height, width = plan.window
    starts_z, starts_y, starts_x = plan.starts
    before: NDArray[np.float32] | None = None
    for row, z in enumerate(starts_z):
        corners = [
            (y, x)
            for y, x in product(starts_y, starts_x)
            if is_needed(Box((z, y, x), (z + depth, y + height, x + width)))
        ]
        if not corners:
            before = None
            yield [], np.empty((0, 0, 0, 0), np.float32)
            continue
        n_shared = 0 if before is None else starts_z[row - 1] + depth - z
        image_CZYX = _read_row(image, range_C2, plan, z, before, n_shared)
        yield corners, image_CZYX
        before = image_CZYX
        del image_CZYX


def _read_row(
    image: Volume,
    range_C2: NDArray[np.float32],
    plan: WindowPlan,
    z: int,
    before: NDArray[np.float32] | None,
    n_shared: int,
) -> NDArray[np.float32]:
    """Read the slices of a row of windows, normalised and padded by reflection."""
    depth = plan.window[0]
    (y0, y1), (x0, x1) = (
        (starts[0], starts[-1] + window)
        for starts, window in zip(plan.starts[1:], plan.window[1:], strict=True)
    )
    shape = image.shape_ZYX
    present = [min(z + depth, shape[0]) - z, min(y1, shape[1]) - y0]
    present.append(min(x1, shape[2]) - x0)
    normal = np.empty((image.n_channels, *present), np.float32)
    if before is not None and n_shared > 0:
        # Without what was reflected where the window is larger than the volume.
        normal[:, :n_shared] = before[:, -n_shared:, : present[1], : present[2]]
    new = Box(
        (z + max(0, n_shared), y0, x0),
        (z + present[0], y0 + present[1], x0 + present[2]),
    )
    part = _read(image, new)
    for i in range(0, part.shape[1], _SLICES):
        slices = normalise(part[:, i : i + _SLICES], range_C2)
        at = max(0, n_shared) + i
        normal[:, at : at + slices.shape[1]] = slices
    missing = [n - m for n, m in zip((depth, y1 - y0, x1 - x0), present, strict=True)]
    if any(missing):
        normal = np.pad(normal, ((0, 0), *((0, n) for n in missing)), mode="reflect")
    return normal


def _read(image: Volume, box: Box) -> NDArray[Any]:
    """Read a box; errors say where it lies."""
    try:
        part = image.read(box.slices)
        check_finite(part, image.name)
    except DataError as error:
        raise DataError(f"{error} (in {box})") from error
    return part


def _add(
    total: Tensor, maps: Tensor, weight: Tensor, box: Box, corner: tuple[int, int]
) -> None:
    """Add the weighted maps of a window, where it lies in the box along y and x."""
    into: list[slice] = []
    out: list[slice] = []
    for axis, start in enumerate(corner, start=1):
        n = weight.shape[axis]
        a, b = max(start, box.start[axis]), min(start + n, box.stop[axis])
        into.append(slice(a - box.start[axis], b - box.start[axis]))
        out.append(slice(a - start, b - start))
    part = total[:, :, into[0], into[1]]
    part.addcmul_(maps[:, :, out[0], out[1]], weight[:, out[0], out[1]])


def _round(total: Tensor, norm_z: Tensor, plane: Tensor) -> NDArray[np.uint8]:
    """Return finished slices as uint8; one by one, which takes little memory."""
    rounded = torch.empty(total.shape, dtype=torch.uint8, device=total.device)
    for i, norm in enumerate(norm_z):
        mean = total[:, i] / (norm * plane)
        rounded[:, i] = mean.mul_(255).round_().clamp_(0, 255)
    values: NDArray[np.uint8] = rounded.cpu().numpy()
    return values


def _move_up(total: Tensor, n: int) -> None:
    """Move the slab on by some slices, in place; the last ones become 0."""
    depth = total.shape[1]
    for i in range(depth - n):
        total[:, i] = total[:, i + n]
    total[:, max(0, depth - n) :] = 0
