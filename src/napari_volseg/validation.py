"""Score the held-out voxels.

All held-out boxes are packed into one volume with empty slices between them, so
that metrics and thresholds see every object once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_volseg.config import InstancesConfig
from napari_volseg.geometry import Box
from napari_volseg.instances import fit_thresholds, segment
from napari_volseg.losses import build_loss
from napari_volseg.map_metrics import map_metrics
from napari_volseg.metrics import evaluate
from napari_volseg.networks import fit_window
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
        self._truth, self._known = self._pack_truth()

    @property
    def n_objects(self) -> int:
        """Number of true objects, cut ones included."""
        return int(self._truth.max(initial=0))

    def predict(self, network: nn.Module) -> NDArray[np.uint8]:
        """Return the maps of all boxes, packed."""
        network.eval()
        return _pack(
            [
                predict_region(network, self._plan, p.volume, p.range_C2, p.box)
                for p in self._parts
            ]
        )

    def score(
        self, maps_CZYX: NDArray[np.uint8], instances: InstancesConfig
    ) -> dict[str, float]:
        """Return the metrics of instances and maps, and the loss, of packed maps."""
        labels = segment(maps_CZYX, instances)
        # Not the fitted minimum: it would also decide which true objects count.
        metrics = evaluate(
            labels,
            self._truth,
            self._known,
            min_size=self._plan.config.instances.min_size,
        )
        of_maps = map_metrics(
            zip(self._unpack(maps_CZYX), (p.targets for p in self._parts), strict=True)
        )
        return {**metrics, **of_maps, "loss": self._loss(maps_CZYX)}

    def fit(
        self,
        maps_CZYX: NDArray[np.uint8],
        start: InstancesConfig,
        max_voxels: int = 2_000_000,
    ) -> InstancesConfig:
        """Return the thresholds under which packed maps match the truth best.

        Of more than `max_voxels` the middle of each slice is used: two million take
        some seconds.
        """
        height, width = self._truth.shape[1:]
        share = min(1.0, (max_voxels / self._truth.size) ** 0.5)
        h, w = max(1, round(height * share)), max(1, round(width * share))
        y, x = (height - h) // 2, (width - w) // 2
        part = (..., slice(y, y + h), slice(x, x + w))
        return fit_thresholds(
            maps_CZYX[part], self._truth[part], self._known[part], start, caution=2.0
        ).config

    def _unpack(self, maps_CZYX: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        z = 0
        for part in self._parts:
            d, h, w = part.box.shape
            yield maps_CZYX[:, z : z + d, :h, :w]
            z += d + _GAP

    def _pack_truth(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        truths, known, offset = [], [], 0
        for part in self._parts:
            labels = part.volume.labels_ZYX[part.box.slices].astype(np.int64)
            _, dense = np.unique(labels, return_inverse=True)
            dense = dense.reshape(labels.shape) + (0 if (labels == 0).any() else 1)
            truths.append(np.where(dense > 0, dense + offset, 0)[np.newaxis])
            offset += int(dense.max())
            known.append(part.targets.valid_CZYX[:1])
        return _pack(truths)[0], _pack(known)[0]

    def _loss(self, maps_CZYX: NDArray[np.uint8]) -> float:
        targets = _pack([p.targets.values_CZYX for p in self._parts])
        valid = _pack([p.targets.valid_CZYX for p in self._parts])
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


def _pack(arrays_CZYX: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Stack boxes of different sizes along z, zeros between and around them."""
    height = max(a.shape[2] for a in arrays_CZYX)
    width = max(a.shape[3] for a in arrays_CZYX)
    depth = sum(a.shape[1] + _GAP for a in arrays_CZYX)
    first = arrays_CZYX[0]
    packed = np.zeros((first.shape[0], depth, height, width), first.dtype)
    z = 0
    for array in arrays_CZYX:
        d, h, w = array.shape[1:]
        packed[:, z : z + d, :h, :w] = array
        z += d + _GAP
    return packed
