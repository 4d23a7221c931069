"""Seeded patches for training.

A patch is a function of (seed, step, place in the batch) and of nothing else:
threads, resumed runs and the order of preparation cannot change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_volseg.augmentation import Patch, augment, turnable_planes
from napari_volseg.config import Config
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size
from napari_volseg.splitting import annotated_box
from napari_volseg.targets import make_targets
from napari_volseg.volume import (
    LabelledVolume,
    VoxelSize,
    check_finite,
    intensity_range,
    normalise,
)

__all__ = ["Batch", "PatchSource", "PreparedVolume", "batches", "prepare_volume"]

_PLACES_PER_OBJECT = 64
_PLACES = 100_000


@dataclass(frozen=True, slots=True)
class PreparedVolume:
    """A training volume with its targets, padded so that every patch fits."""

    name: str
    voxel_size: VoxelSize
    image_CZYX: NDArray[Any]
    """As stored; normalised patch by patch."""
    range_C2: NDArray[np.float32]
    targets_CZYX: NDArray[np.uint8]
    valid_CZYX: NDArray[np.bool_]
    objects_N3: NDArray[np.int32]
    """Voxels to centre patches on: up to 64 of each object."""
    anywhere_N3: NDArray[np.int32]
    """Annotated voxels, object or not."""
    n_annotated: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one forward pass."""

    image_BCZYX: Tensor
    targets_BCZYX: Tensor
    """Values in [0, 1]."""
    valid_BCZYX: Tensor


def prepare_volume(
    volume: LabelledVolume,
    held_out: Sequence[Box],
    guard: Size,
    config: Config,
    patch_size: Size,
    boundary: Literal["3d", "2d"],
    distance: Literal["3d", "2d"],
) -> PreparedVolume:
    """Read a volume, compute its targets and mark what may be learnt from.

    Only the box around the annotation, with a patch of context, is read.

    Parameters
    ----------
    held_out
        Boxes whose labels are never learnt from, nor within `guard` of them.

    Raises
    ------
    DataError
        If the image has NaN, or nothing is left to learn from.
    """
    name = volume.image.name
    context = tuple(
        max(n, p) for n, p in zip(patch_size, config.data.pad_size, strict=True)
    )
    box = annotated_box(volume).grow(context, volume.image.shape_ZYX)
    annotated = volume.annotated_ZYX
    targets = make_targets(
        volume.labels_ZYX[box.slices],
        volume.image.voxel_size,
        boundary=boundary,
        distance=distance,
        annotated_ZYX=None if annotated is None else annotated[box.slices],
    )
    valid = targets.valid_CZYX
    for hidden in held_out:
        inner = hidden.grow(guard, volume.image.shape_ZYX)
        visible = inner.within(box)
        valid[
            (slice(None), *(slice(max(0, s.start), max(0, s.stop)) for s in visible))
        ] = False
    if not valid[0].any():
        raise DataError(
            f"nothing is left to learn from {name} after holding out a part for "
            "validation: annotate more, or set data.val_fraction=0"
        )
    image = volume.image.read(box.slices)
    check_finite(image, name)
    margins = _margins(image.shape[1:], patch_size, config.data.pad_size)
    labels = np.pad(volume.labels_ZYX[box.slices], margins, mode="reflect")
    image, values, valid = (
        np.pad(a, ((0, 0), *margins), mode="reflect")
        for a in (image, targets.values_CZYX, valid)
    )
    objects, anywhere = _places(labels, valid[0], config.system.seed)
    return PreparedVolume(
        name=name,
        voxel_size=volume.image.voxel_size,
        image_CZYX=image,
        range_C2=intensity_range(volume.image, config.data.percentiles),
        targets_CZYX=values,
        valid_CZYX=valid,
        objects_N3=objects,
        anywhere_N3=anywhere,
        n_annotated=int(np.count_nonzero(valid[0])),
    )


def _margins(
    shape: Sequence[int], patch: Sequence[int], pad: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Return the padding of each axis: the margin asked for, and up to a patch."""
    margins = []
    for n, p, m in zip(shape, patch, pad, strict=True):
        missing = max(0, p - (n + 2 * m))
        margins.append((m + missing // 2, m + missing - missing // 2))
    return tuple(margins)


def _places(
    labels: NDArray[np.integer[Any]], valid: NDArray[np.bool_], seed: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    rng = np.random.default_rng([seed, labels.size])
    known = np.flatnonzero(valid)
    inside = known[labels.ravel()[known] != 0]
    order = rng.permutation(inside.size)
    inside = inside[order]
    ids = labels.ravel()[inside]
    by_id = np.argsort(ids, kind="stable")
    ids, inside = ids[by_id], inside[by_id]
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if ids.size else ids
    rank = np.arange(ids.size) - np.repeat(starts, np.diff(np.r_[starts, ids.size]))
    chosen = inside[rank < _PLACES_PER_OBJECT]
    anywhere = known if known.size <= _PLACES else rng.choice(known, _PLACES)
    return _coordinates(chosen, labels.shape), _coordinates(anywhere, labels.shape)


def _coordinates(flat: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int32]:
    return np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int32)


@dataclass(frozen=True, slots=True)
class PatchSource:
    """Draws augmented patches from prepared volumes."""

    volumes: Sequence[PreparedVolume]
    config: Config
    patch_size: Size
    _weights: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        sizes = np.array([v.n_annotated for v in self.volumes], dtype=np.float64)
        object.__setattr__(self, "_weights", sizes / sizes.sum())

    def draw(self, step: int, place: int) -> Patch:
        """Return the patch of one place in the batch of one step."""
        rng = np.random.default_rng([self.config.system.seed, step, place])
        volume = self.volumes[int(rng.choice(len(self.volumes), p=self._weights))]
        centre = self._centre(volume, rng)
        if (
            rng.random() < self.config.augmentation.affine
            and np.isclose(volume.voxel_size[1], volume.voxel_size[2], rtol=0.05)
            and min(self.patch_size[1:]) > 1
        ):
            patch = _turned_crop(volume, centre, self.patch_size, rng)
        else:
            patch = _crop(volume, centre, self.patch_size)
        planes = turnable_planes(volume.voxel_size, self.patch_size)
        return augment(patch, self.config.augmentation, planes, rng)

    def _centre(self, volume: PreparedVolume, rng: Generator) -> NDArray[np.int64]:
        aimed = rng.random() < self.config.data.foreground and len(volume.objects_N3)
        places = volume.objects_N3 if aimed else volume.anywhere_N3
        reach = np.array(self.patch_size) // 4
        jitter = rng.integers(-reach, reach + 1)
        place: NDArray[np.int64] = places[int(rng.integers(len(places)))] + jitter
        return place

    def batch(self, step: int, micro_batch: int) -> Batch:
        """Return the tensors of one forward pass, on the CPU."""
        size = self.config.system.training.patches_per_batch
        patches = [self.draw(step, micro_batch * size + i) for i in range(size)]
        targets = np.stack([p.targets_CZYX for p in patches])
        return Batch(
            torch.from_numpy(np.stack([p.image_CZYX for p in patches])),
            torch.from_numpy(targets.astype(np.float32) / 255),
            torch.from_numpy(np.stack([p.valid_CZYX for p in patches])),
        )


def batches(
    source: PatchSource, first_step: int, micro_batches: Sequence[int], n_workers: int
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step, prepared ahead by threads.

    Parameters
    ----------
    micro_batches
        Places of the wanted ones among all of a step: everything for one process,
        every n-th for one of n that train together.
    """
    if n_workers == 0:
        step = first_step
        while True:
            yield [source.batch(step, i) for i in micro_batches]
            step += 1
    ahead = max(2, -(-n_workers // max(1, len(micro_batches))) + 1)
    with ThreadPoolExecutor(n_workers, "volseg-patches") as pool:
        queue: list[list[Future[Batch]]] = []
        step = first_step
        try:
            while True:
                while len(queue) < ahead:
                    queue.append(
                        [pool.submit(source.batch, step, i) for i in micro_batches]
                    )
                    step += 1
                yield [future.result() for future in queue.pop(0)]
        finally:
            for futures in queue:
                for future in futures:
                    future.cancel()


def _crop(volume: PreparedVolume, centre: NDArray[np.int64], size: Size) -> Patch:
    shape = np.array(volume.image_CZYX.shape[1:])
    start = np.clip(centre - np.array(size) // 2, 0, shape - size)
    window = (
        slice(None),
        *(slice(int(a), int(a) + n) for a, n in zip(start, size, strict=True)),
    )
    return Patch(
        normalise(volume.image_CZYX[window], volume.range_C2),
        volume.targets_CZYX[window],
        volume.valid_CZYX[window],
    )


def _turned_crop(
    volume: PreparedVolume, centre: NDArray[np.int64], size: Size, rng: Generator
) -> Patch:
    """Crop with a random turn and zoom within the slice.

    All slices and channels turn alike, so one two-dimensional grid serves them.
    """
    angle, zoom = rng.uniform(-np.pi, np.pi), rng.uniform(0.8, 1.25)
    reach = int(np.ceil(np.hypot(size[1], size[2]) / 2 / zoom)) + 2
    shape = volume.image_CZYX.shape[1:]
    z0 = int(np.clip(centre[0] - size[0] // 2, 0, shape[0] - size[0]))
    cy, cx = (
        int(np.clip(c, 0, n - 1)) for c, n in zip(centre[1:], shape[1:], strict=True)
    )
    y0, y1 = max(0, cy - reach), min(shape[1], cy + reach + 1)
    x0, x1 = max(0, cx - reach), min(shape[2], cx + reach + 1)
    window = (slice(None), slice(z0, z0 + size[0]), slice(y0, y1), slice(x0, x1))
    grid = _turned_grid(
        (size[1], size[2]), (cy - y0, cx - x0), (y1 - y0, x1 - x0), angle, zoom
    )
    targets = volume.targets_CZYX[window]
    valid = _resample(volume.valid_CZYX[window], grid, "nearest", "zeros") > 0.5
    return Patch(
        _resample(
            normalise(volume.image_CZYX[window], volume.range_C2),
            grid,
            "bilinear",
            "reflection",
        ),
        np.concatenate(
            [
                _resample(targets[:2], grid, "nearest", "reflection"),
                _resample(targets[2:], grid, "bilinear", "reflection"),
            ]
        ).astype(np.uint8),
        valid,
    )


def _turned_grid(
    size: tuple[int, int],
    centre: tuple[int, int],
    source: tuple[int, int],
    angle: float,
    zoom: float,
) -> Tensor:
    """Return where each pixel of a turned slice comes from, from -1 to 1."""
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    from_y = centre[0] + cos * y - sin * x
    from_x = centre[1] + sin * y + cos * x
    grid = np.stack(
        [
            2 * from_x / max(1, source[1] - 1) - 1,
            2 * from_y / max(1, source[0] - 1) - 1,
        ],
        axis=-1,
    )
    return torch.from_numpy(grid.astype(np.float32))[None]


def _resample(
    array_CZYX: NDArray[Any], grid: Tensor, mode: str, padding: str
) -> NDArray[np.float32]:
    n_channels, depth = array_CZYX.shape[:2]
    slices = array_CZYX.reshape(1, n_channels * depth, *array_CZYX.shape[2:])
    turned = functional.grid_sample(
        torch.from_numpy(slices.astype(np.float32)),
        grid,
        mode=mode,
        padding_mode=padding,
        align_corners=True,
    )
    values: NDArray[np.float32] = turned.numpy().reshape(
        n_channels, depth, *grid.shape[1:3]
    )
    return values
