"""Score the held-out voxels.

Held-out boxes are packed into volumes with empty slices between them, so that metrics
and thresholds see every object once: into one, or several where boxes of different
shapes would leave most of it empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box, Size
from napari_volseg.instances import fit_thresholds, segment
from napari_volseg.losses import build_loss
from napari_volseg.map_metrics import map_metrics
from napari_volseg.metrics import count_in_slabs, score_overlaps
from napari_volseg.networks import fit_window
from napari_volseg.overlaps import Overlaps, add_overlaps
from napari_volseg.planning import TrainPlan
from napari_volseg.runs import TrainingPair
from napari_volseg.targets import Targets, make_targets, surface_of
from napari_volseg.volume import LabelledVolume, Volume, intensity_range
from napari_volseg.windows import plan_windows, predict_box

__all__ = [
    "ENOUGH_OBJECTS",
    "HeldOutVoxels",
    "predict_region",
    "score_of",
    "targets_of_box",
]

ENOUGH_OBJECTS = 30
"""Held-out objects that suffice to choose thresholds and the best model by."""

_GAP = 1
"""Empty slices between two packed boxes."""
_SMALL_PACK = 8_000_000
"""Voxels of a pack below which it may be as empty as it likes."""
_LEAST_FILLED = 0.5
"""Share of the voxels of a larger pack that are those of its boxes."""
_CONTEXT = 8
"""The network sees this part of a patch around a box."""
_LARGEST_WINDOW = 2
"""Windows for validation are at most this many patches long."""


def score_of(metrics: Mapping[str, float]) -> float:
    """Return the one number that chooses the best model: higher is better.

    The mean average precision over IoU 0.5 to 0.95, with the loss to decide between
    models that find the same objects. Of a few objects, finding one more or less is
    chance, so there the loss alone decides.
    """
    if metrics["n_true"] < ENOUGH_OBJECTS:
        return -metrics["loss"]
    return metrics["ap"] - 0.01 * metrics["loss"]


@dataclass(frozen=True, slots=True)
class _Part:
    volume: LabelledVolume
    box: Box
    range_C2: NDArray[np.float32]
    targets: Targets


class HeldOutVoxels:
    """The voxels to validate on, with their truth and targets."""

    def __init__(
        self, plan: TrainPlan, pairs: Sequence[TrainingPair], boxes: Sequence[Any]
    ) -> None:
        self._plan = plan
        self._parts = [
            _prepare(plan, pairs[held.pair].volume, held.box) for held in boxes
        ]
        self._packs = _group([part.box.shape for part in self._parts])
        self._known = [part.targets.valid_CZYX[:1] for part in self._parts]
        self._truths, self.n_objects = _number_truth(self._parts)
        """True objects of each box, and how many there are, cut ones included."""

    def predict(self, network: nn.Module) -> list[NDArray[np.uint8]]:
        """Return the maps of each box."""
        network.eval()
        return [
            predict_region(network, self._plan, p.volume, p.range_C2, p.box)
            for p in self._parts
        ]

    def score(
        self, maps: Sequence[NDArray[np.uint8]], instances: InstancesConfig
    ) -> dict[str, float]:
        """Return the metrics of instances and maps, and the loss, of all boxes."""
        # Not the fitted minimum: it would also decide which true objects count.
        metrics = score_overlaps(
            add_overlaps(self._overlaps(maps, instances)),
            self._plan.config.instances.min_size,
        )
        of_maps = map_metrics(zip(maps, (p.targets for p in self._parts), strict=True))
        return {**metrics, **of_maps, "loss": self._loss(maps)}

    def fit(
        self,
        maps: Sequence[NDArray[np.uint8]],
        start: InstancesConfig,
        max_voxels: int = 2_000_000,
    ) -> InstancesConfig:
        """Return the thresholds under which the maps match the truth best.

        Of more than `max_voxels`, packed, the middle of each slice of each box is
        used: two million take some seconds.
        """
        shapes = [part.box.shape for part in self._parts]
        depth, height, width = _packed_shape(shapes)
        share = min(1.0, (max_voxels / (depth * height * width)) ** 0.5)
        edges = max(1, round(height * share)), max(1, round(width * share))
        packed, truths, known = (
            _pack([_middle(array, *edges) for array in arrays])
            for arrays in (maps, self._truths, self._known)
        )
        return fit_thresholds(packed, truths[0], known[0], start, caution=2.0).config

    def _overlaps(
        self, maps: Sequence[NDArray[np.uint8]], instances: InstancesConfig
    ) -> Iterator[Overlaps]:
        """Yield which true objects the instances of each box share voxels with."""
        n_found = 0
        for pack in self._packs:
            labels = segment(_pack([maps[i] for i in pack]), instances)
            labels[labels > 0] += n_found
            n_found = max(n_found, int(labels.max(initial=0)))
            boxes = _unpack(labels, [self._parts[i].box.shape for i in pack])
            for i, found in zip(pack, boxes, strict=True):
                yield count_in_slabs(found, self._truths[i][0], self._known[i][0])

    def _loss(self, maps: Sequence[NDArray[np.uint8]]) -> float:
        """Return the loss; of several packs the mean, weighed by known voxels."""
        known = [
            sum(int(self._parts[i].targets.valid_CZYX.sum()) for i in pack)
            for pack in self._packs
        ]
        return sum(
            n / max(1, sum(known)) * self._loss_of(pack, [maps[i] for i in pack])
            for n, pack in zip(known, self._packs, strict=True)
        )

    def _loss_of(self, pack: Sequence[int], maps: Sequence[NDArray[np.uint8]]) -> float:
        maps_CZYX = _pack(maps)
        targets = _pack([self._parts[i].targets.values_CZYX for i in pack])
        valid = _pack([self._parts[i].targets.valid_CZYX for i in pack])
        probability = np.clip(maps_CZYX.astype(np.float32) / 255, 1 / 510, 1 - 1 / 510)
        # Without perceptual terms: their network is too large for a whole volume.
        config = self._plan.config
        surface = surface_of(config.data.targets.distance_kind)
        loss = build_loss(config.model, surface=surface)
        with torch.no_grad():
            losses = loss(
                [torch.logit(torch.from_numpy(probability))[None]],
                torch.from_numpy(targets.astype(np.float32) / 255)[None],
                torch.from_numpy(valid)[None],
            )
        return float(losses.total)


def predict_region(
    network: nn.Module,
    plan: TrainPlan,
    volume: LabelledVolume,
    range_C2: NDArray[np.float32],
    box: Box,
) -> NDArray[np.uint8]:
    """Return the maps of a box, seen with some context in as few windows as can be.

    A prediction of the whole volume lays its windows elsewhere, so maps differ
    slightly; its grid would cost a small box ten times as much.
    """
    shape = volume.image.shape_ZYX
    context = [n // _CONTEXT for n in plan.patch_size]
    outer = box.grow(context, shape)
    window = fit_window(plan.config.model, plan.pyramid, outer.shape)
    z, y, x = (
        min(n, _LARGEST_WINDOW * p)
        for n, p in zip(window, plan.patch_size, strict=True)
    )
    inner = Box(
        tuple(s.start for s in box.within(outer)),
        tuple(s.stop for s in box.within(outer)),
    )
    inference = plan.config.inference.model_copy(
        update={"flips": "none", "overlap": 0.25}
    )
    windows = plan_windows(outer.shape, (z, y, x), inference, inner)
    part = Volume(
        volume.image.read(outer.slices), volume.image.voxel_size, volume.image.name
    )
    network.eval()
    return predict_box(network, part, range_C2, windows, plan.compute)


def targets_of_box(plan: TrainPlan, volume: LabelledVolume, box: Box) -> Targets:
    """Return the targets of a box, made with a patch of context around it."""
    outer = box.grow(plan.patch_size, volume.image.shape_ZYX)
    known = volume.annotated_ZYX
    settings = plan.config.data.targets
    targets = make_targets(
        volume.labels_ZYX[outer.slices],
        volume.image.voxel_size,
        boundary=plan.boundary,
        distance=plan.distance,
        boundary_nm=settings.boundary_nm,
        distance_kind=settings.distance_kind,
        annotated_ZYX=None if known is None else known[outer.slices],
    )
    inner = (slice(None), *box.within(outer))
    return Targets(targets.values_CZYX[inner], targets.valid_CZYX[inner])


def _prepare(plan: TrainPlan, volume: LabelledVolume, box: Box) -> _Part:
    return _Part(
        volume=volume,
        box=box,
        range_C2=intensity_range(volume.image, plan.config.data.percentiles),
        targets=targets_of_box(plan, volume, box),
    )


def _number_truth(parts: Sequence[_Part]) -> tuple[list[NDArray[np.int64]], int]:
    """Return the true objects of each box, no id twice, and their number."""
    truths, offset = [], 0
    for part in parts:
        labels = part.volume.labels_ZYX[part.box.slices].astype(np.int64)
        _, dense = np.unique(labels, return_inverse=True)
        dense = dense.reshape(labels.shape) + (0 if (labels == 0).any() else 1)
        truths.append(np.where(dense > 0, dense + offset, 0)[np.newaxis])
        offset += int(dense.max())
    return truths, offset


def _group(shapes: Sequence[Size]) -> list[list[int]]:
    """Return which boxes are packed together: no large pack is mostly empty."""
    packs: list[list[int]] = []
    for i, _ in enumerate(shapes):
        for pack in packs:
            together = [shapes[k] for k in (*pack, i)]
            enough = sum(map(prod, together)) / _LEAST_FILLED
            if prod(_packed_shape(together)) <= max(_SMALL_PACK, enough):
                pack.append(i)
                break
        else:
            packs.append([i])
    return packs


def _packed_shape(shapes: Sequence[Size]) -> Size:
    depths, heights, widths = zip(*shapes, strict=True)
    return sum(depths) + _GAP * len(shapes), max(heights), max(widths)


def _pack(arrays_CZYX: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Stack boxes of different sizes along z, zeros between and around them."""
    first = arrays_CZYX[0]
    shapes = [_shape_ZYX(array) for array in arrays_CZYX]
    packed = np.zeros((first.shape[0], *_packed_shape(shapes)), first.dtype)
    for place, array in zip(_unpack(packed, shapes), arrays_CZYX, strict=True):
        place[:] = array
    return packed


def _unpack(packed: NDArray[Any], shapes: Sequence[Size]) -> Iterator[NDArray[Any]]:
    """Yield the parts of a packed array that are the boxes."""
    z = 0
    for d, h, w in shapes:
        yield packed[..., z : z + d, :h, :w]
        z += d + _GAP


def _middle(array_CZYX: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Return the middle of each slice, at most so high and wide."""
    _, rows, columns = _shape_ZYX(array_CZYX)
    h, w = min(rows, height), min(columns, width)
    y, x = (rows - h) // 2, (columns - w) // 2
    return array_CZYX[..., y : y + h, x : x + w]


def _shape_ZYX(array_CZYX: NDArray[Any]) -> Size:
    z, y, x = array_CZYX.shape[-3:]
    return z, y, x
