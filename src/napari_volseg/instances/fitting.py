"""Thresholds that fit the maps of a network to the annotation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.instances.levels import check_maps
from napari_volseg.instances.segmentation import segment
from napari_volseg.metrics import evaluate

__all__ = ["FittedThresholds", "fit_thresholds"]

_COARSE: Mapping[str, tuple[float, ...]] = {
    "seed_depth": (0.06, 0.09, 0.12, 0.15, 0.2, 0.3, 1.1),
    "seed_distance": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "seed_boundary": (0.2, 0.35, 0.5, 0.65, 0.8, 1.1),
    "mask": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "boundary": (0.5, 0.7, 0.9, 1.1),
    "seed_mask": (0.3, 0.5, 0.7, 0.9),
}
_FINE: Mapping[str, tuple[float, ...]] = {
    "seed_distance": (-0.1, -0.05, 0.05, 0.1),
    "seed_boundary": (-0.15, -0.08, 0.08, 0.15),
    "mask": (-0.05, 0.05),
}
_CURVES = ("mask", "seed_boundary", "seed_distance", "seed_depth")
_N_TRIALS = 55
# Scores closer than this are one plateau.
_TOLERANCE = 0.003
# Context kept around the annotated voxels, so that objects flood as in the volume.
_MARGIN = 16


@dataclass(frozen=True, slots=True)
class FittedThresholds:
    """The best thresholds found, and how good they are."""

    config: InstancesConfig
    score: float
    """``ap + (1 - adapted_rand_error) / 10`` on the annotated voxels."""
    scores: Mapping[str, float]
    """All of `metrics.evaluate`; empty when there was nothing to fit to."""
    before: Mapping[str, float] = field(default_factory=dict)
    """The same with the thresholds that the search began with."""
    curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """By setting, value and score while all others are at their best."""


def fit_thresholds(
    maps_CZYX: NDArray[np.uint8],
    labels_ZYX: NDArray[np.integer[Any]],
    annotated_ZYX: NDArray[np.bool_] | None,
    start: InstancesConfig,
    *,
    caution: float = 0.0,
    with_curves: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> FittedThresholds:
    """Search the thresholds under which `segment` matches the labels best.

    One setting after the other is tried over its range and then near the best so
    far, about fifty segmentations in all. Where several values are as good, the
    start value is kept if it is one of them, else the middle one is taken. Sizes
    follow from the true objects: where it makes no difference, `min_size` is a
    fifth of the 5th percentile of their sizes.

    Parameters
    ----------
    maps_CZYX
        Mask, boundary and distance, uint8, 255 being 1; a few million voxels.
    labels_ZYX, annotated_ZYX
        The true instances and where they count; None means everywhere.
    start
        Where to begin; returned with score 0 when no true instance is annotated.
    caution
        Up to how many objects more of a score count as equally good. What fits a few
        objects of one place best is chance in another: 2 is good for thresholds that
        are meant for other volumes.
    with_curves
        Say how the score depends on each threshold of a map: some thirty
        segmentations more.
    report
        Called with the number of segmentations done and about how many there will be.
    """
    maps = check_maps(maps_CZYX)
    truth, known = np.asarray(labels_ZYX), annotated_ZYX
    if known is not None:
        box = _box_around(known)
        maps, truth, known = maps[:, *box], truth[box], known[box]
        truth = np.where(known, truth, 0)
    if not truth.any():
        return FittedThresholds(start, 0.0, {})
    expected = _N_TRIALS + with_curves * sum(len(_COARSE[name]) for name in _CURVES)
    tolerance = max(_TOLERANCE, caution / fastremap.unique(truth).size)
    trials = _Trials(
        np.ascontiguousarray(maps), truth, known, tolerance, report, expected
    )
    small = _small_size(truth)
    best = start.model_copy(update={"min_size": min(start.min_size, small // 5)})
    for setting, values in _COARSE.items():
        best = trials.improve(best, setting, values, getattr(start, setting))
    for setting, steps in _FINE.items():
        middle = getattr(best, setting)
        values = tuple(round(min(max(middle + s, 0.02), 0.98), 3) for s in steps)
        if middle <= 1:
            best = trials.improve(best, setting, values, getattr(start, setting))
    seed_sizes = (1, small // 100, small // 30, small // 10)
    best = trials.improve(best, "min_seed_size", seed_sizes, start.min_seed_size)
    sizes = (0, small // 20, small // 2)
    best = trials.improve(best, "min_size", sizes, small // 5)
    curves = trials.curves(best) if with_curves else {}
    return FittedThresholds(
        best, *trials.score(best), before=trials.score(start)[1], curves=curves
    )


class _Trials:
    """Segmentations of one volume and their scores, each made once."""

    def __init__(
        self,
        maps_CZYX: NDArray[np.uint8],
        truth_ZYX: NDArray[np.integer[Any]],
        known_ZYX: NDArray[np.bool_] | None,
        tolerance: float,
        report: Callable[[int, int], None],
        expected: int,
    ) -> None:
        self._report, self._expected = report, expected
        self._maps, self._truth, self._known = maps_CZYX, truth_ZYX, known_ZYX
        self._done: dict[str, tuple[float, dict[str, float]]] = {}
        self._tolerance = tolerance

    def score(self, config: InstancesConfig) -> tuple[float, dict[str, float]]:
        key = config.model_dump_json()
        if key not in self._done:
            labels_ZYX = segment(self._maps, config)
            scores = evaluate(labels_ZYX, self._truth, self._known)
            total = scores["ap"] + 0.1 * (1 - scores["adapted_rand_error"])
            self._done[key] = total, scores
            n = len(self._done)
            self._report(n, max(n, self._expected))
        return self._done[key]

    def curves(
        self, best: InstancesConfig
    ) -> dict[str, tuple[tuple[float, float], ...]]:
        """Return how the score depends on each threshold of a map."""
        return {
            name: tuple(
                (value, self.score(best.model_copy(update={name: value}))[0])
                for value in sorted({*_COARSE[name], getattr(best, name)})
            )
            for name in _CURVES
        }

    def improve(
        self,
        config: InstancesConfig,
        setting: str,
        values: Iterable[float],
        preferred: float,
    ) -> InstancesConfig:
        """Return the configuration with the best value of one setting."""
        tried = sorted({*values, getattr(config, setting), preferred})
        configs = [config.model_copy(update={setting: value}) for value in tried]
        scores = [self.score(candidate)[0] for candidate in configs]
        first, last = _plateau(scores, self._tolerance)
        if tried[first] <= preferred <= tried[last]:
            return configs[tried.index(preferred)]
        return configs[(first + last) // 2]


def _plateau(scores: list[float], tolerance: float) -> tuple[int, int]:
    """Return the first and the last of the values around the best that equal it."""
    first = last = int(np.argmax(scores))
    enough = scores[first] - tolerance
    while first > 0 and scores[first - 1] >= enough:
        first -= 1
    while last + 1 < len(scores) and scores[last + 1] >= enough:
        last += 1
    return first, last


def _box_around(known_ZYX: NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        where = np.flatnonzero(known_ZYX.any(axis=others))
        if not where.size:
            return (slice(0, 0),) * 3
        start = max(0, int(where[0]) - _MARGIN)
        box.append(slice(start, int(where[-1]) + 1 + _MARGIN))
    return tuple(box)


def _small_size(truth_ZYX: NDArray[np.integer[Any]]) -> int:
    """Return the 5th percentile of the sizes of the true objects, in voxels."""
    ids, sizes = fastremap.unique(truth_ZYX, return_counts=True)
    return int(np.percentile(sizes[ids != 0], 5))
