"""Scores of instances against the annotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size, iter_boxes
from napari_volseg.overlaps import Overlaps, add_overlaps, count_overlaps
from napari_volseg.processors import default_threads, map_in_order
from napari_volseg.volume import ArrayLike, read_annotation

__all__ = ["count_in_slabs", "evaluate", "evaluate_blocks", "score_overlaps"]

_PART = 2**22
"""Voxels of a volume in memory that are counted at once."""

Labels = NDArray[np.integer[Any]]


def evaluate(
    pred_ZYX: Labels,
    truth_ZYX: Labels,
    annotated_ZYX: NDArray[np.bool_] | None = None,
    min_size: int = 0,
) -> dict[str, float]:
    """Compare predicted with true instances.

    An instance is matched with one other at most, the pairs of the largest
    intersection over union (IoU) first; a match counts for a threshold when its IoU
    is at least that. TP are matches, FP and FN instances left over.

    Parameters
    ----------
    pred_ZYX, truth_ZYX
        Instance ids, 0 = background; only which voxels share an id matters.
    annotated_ZYX
        Where the truth counts; all other voxels are left out of everything.
    min_size
        Instances of fewer annotated voxels, true or predicted, become background.

    Returns
    -------
    dict
        - ``adapted_rand_error``: 1 - F-score of the pairs of voxels that share an
          instance, over voxels of true instances (SNEMI3D); predicted background
          counts as one instance, as in scikit-image.
        - ``voi_split``, ``voi_merge``: conditional entropies in bits of prediction
          given truth, and of truth given prediction, over the same voxels.
        - ``precision_50``, ``recall_50``, ``f1_50``: TP / (TP + FP), TP / (TP + FN)
          and 2 TP / (2 TP + FP + FN) at IoU 0.5.
        - ``ap_50``, ``ap``: TP / (TP + FP + FN) at IoU 0.5, and its mean over IoU
          0.5, 0.55 … 0.95.
        - ``pq_50``: panoptic quality, the sum of matched IoU / (TP + FP/2 + FN/2).
        - ``n_true``, ``n_pred``: number of instances.

        Without any instance on both sides the prediction is perfect; without any
        on one side, all ratios are 0.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    Arganda-Carreras et al. 2015 (adapted Rand error); Meilă 2007 (variation of
    information); Kirillov et al. 2019 (panoptic quality); Schmidt et al. 2018 (ap).
    """
    for array in (pred_ZYX, annotated_ZYX):
        if array is not None and array.shape != truth_ZYX.shape:
            raise ValueError(f"shapes {array.shape} and {truth_ZYX.shape} differ")
    return score_overlaps(count_in_slabs(pred_ZYX, truth_ZYX, annotated_ZYX), min_size)


def count_in_slabs(
    pred_ZYX: Labels, truth_ZYX: Labels, annotated_ZYX: NDArray[np.bool_] | None = None
) -> Overlaps:
    """Count as `count_overlaps` does, a few slices at a time, which takes less memory.

    Volumes whose ids differ can be scored together: `add_overlaps` of their tables.
    """
    depth = max(1, _PART // max(1, prod(truth_ZYX.shape[1:])))
    parts = (slice(z, z + depth) for z in range(0, len(truth_ZYX), depth))
    return add_overlaps(
        count_overlaps(
            pred_ZYX[part],
            truth_ZYX[part],
            None if annotated_ZYX is None else annotated_ZYX[part],
        )
        for part in parts
    )


def evaluate_blocks(
    pred_ZYX: ArrayLike,
    truth_ZYX: ArrayLike,
    annotated_ZYX: ArrayLike | None = None,
    min_size: int = 0,
    *,
    block: Size,
    threads: int | None = None,
    names: tuple[str, str] = ("the prediction", "the truth"),
    mask_name: str = "the mask",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Compare instances of volumes of any size; only blocks of them are in memory.

    The scores are those of `evaluate`, bit by bit, whatever the blocks. Beside the
    blocks, memory is needed for every pair of instances that share a voxel: 24 bytes,
    and about 100 while they are scored.

    Parameters
    ----------
    pred_ZYX, truth_ZYX
        Instance ids of up to 64 bits, 0 = background; integer-valued floats too.
    annotated_ZYX
        Not zero where the truth counts.
    block
        Voxels (z, y, x) read at once.
    threads
        Blocks that are read and counted at the same time; by default one for each
        processor that this process may use, at most 16.
    names, mask_name
        Of prediction and truth, and of where that is annotated, for messages.
    report
        Called with the number of blocks done and of all blocks.

    Raises
    ------
    DataError
        If the shapes differ, ids are negative or fractions, nothing is annotated, or
        a block cannot be read.
    """
    shape = tuple(truth_ZYX.shape)
    for array, name in ((pred_ZYX, names[0]), (annotated_ZYX, mask_name)):
        if array is not None and tuple(array.shape) != shape:
            raise DataError(
                f"{name} has the shape {tuple(array.shape)} but {names[1]} has "
                f"{shape}: they must cover the same voxels"
            )

    def count(box: Box) -> Overlaps:
        annotated = None
        if annotated_ZYX is not None:
            annotated = np.asarray(annotated_ZYX[box.slices]) != 0
            if not annotated.any():
                return add_overlaps([])
        return count_overlaps(
            _ids(pred_ZYX, box, names[0]), _ids(truth_ZYX, box, names[1]), annotated
        )

    boxes = list(iter_boxes(shape, block))

    def count_all() -> Iterator[Overlaps]:
        with closing(map_in_order(count, boxes, threads or default_threads())) as parts:
            for done, part in enumerate(parts, 1):
                report(done, len(boxes))
                yield part

    overlaps = add_overlaps(count_all())
    if not overlaps.counts.size:
        raise DataError(
            f"{mask_name} is 0 everywhere, so there is nothing to compare: give one "
            "that is not 0 where the truth is annotated"
        )
    return score_overlaps(overlaps, min_size)


def _ids(labels_ZYX: ArrayLike, box: Box, name: str) -> Labels:
    part = np.asarray(labels_ZYX[box.slices])
    return part if part.dtype.kind == "u" else read_annotation(part, name=name)[0]


def score_overlaps(overlaps: Overlaps, min_size: int = 0) -> dict[str, float]:
    """Return the scores of `evaluate` from the overlaps of all instances.

    Parameters
    ----------
    overlaps
        Of the annotated voxels, added up over the whole volume.
    min_size
        Instances of fewer voxels become background.
    """
    kept = _keep_large(overlaps, min_size)
    return {
        **_pair_scores(kept),
        **_match_scores(kept),
        "n_true": float(np.count_nonzero(kept.true_sizes[1:])),
        "n_pred": float(np.count_nonzero(kept.pred_sizes[1:])),
    }


@dataclass(frozen=True, slots=True)
class _Overlaps:
    """How many voxels each true and each predicted instance share, zeros left out."""

    true_ids: NDArray[np.int64]
    """Of each overlap, counted from 1; 0 is background."""
    pred_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    true_sizes: NDArray[np.int64]
    """Voxels of each true id; 0 where the id was dropped."""
    pred_sizes: NDArray[np.int64]


def _keep_large(overlaps: Overlaps, min_size: int) -> _Overlaps:
    """Give ids without gaps, and turn small instances into background."""
    true_ids, n_true = _number(overlaps.true_ids)
    pred_ids, n_pred = _number(overlaps.pred_ids)
    counts = overlaps.counts
    true_ids, true_sizes = _drop_small(true_ids, counts, n_true, min_size)
    pred_ids, pred_sizes = _drop_small(pred_ids, counts, n_pred, min_size)
    return _Overlaps(true_ids, pred_ids, counts, true_sizes, pred_sizes)


def _number(ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], int]:
    """Return ids 0, 1, 2 … in the same order, 0 for 0, and how many there are."""
    background = np.zeros(1, np.uint64)
    names, places = np.unique(np.append(background, ids), return_inverse=True)
    return places[1:].astype(np.int64), names.size


def _drop_small(
    ids: NDArray[np.int64], counts: NDArray[np.int64], n_ids: int, min_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Turn small instances into background; return the ids and the sizes left."""
    sizes = _add_up(ids, counts, n_ids)
    small = sizes < min_size
    small[0] = False
    sizes[0] += sizes[small].sum()
    sizes[small] = 0
    return np.where(small[ids], 0, ids), sizes


def _add_up(
    ids: NDArray[np.int64], counts: NDArray[np.int64], n_ids: int
) -> NDArray[np.int64]:
    sums = np.zeros(n_ids, np.int64)
    np.add.at(sums, ids, counts)
    return sums


def _pair_scores(overlaps: _Overlaps) -> dict[str, float]:
    """Return the adapted Rand error and the variation of information."""
    inside = overlaps.true_ids > 0
    true_ids, pred_ids = overlaps.true_ids[inside], overlaps.pred_ids[inside]
    # Overlaps of dropped instances now share one background and are added up.
    keys, place = np.unique(
        true_ids * len(overlaps.pred_sizes) + pred_ids, return_inverse=True
    )
    counts = _add_up(place, overlaps.counts[inside], len(keys)).astype(np.float64)
    true_ids, pred_ids = np.divmod(keys, len(overlaps.pred_sizes))
    true_sizes = np.bincount(true_ids, counts)
    pred_sizes = np.bincount(pred_ids, counts)
    both, one, other = (
        float(n @ n - n.sum()) for n in (counts, true_sizes, pred_sizes)
    )
    total = max(float(counts.sum()), 1.0)
    split = counts @ np.log2(true_sizes[true_ids] / counts) / total
    merge = counts @ np.log2(pred_sizes[pred_ids] / counts) / total
    return {
        "adapted_rand_error": 1 - 2 * both / (one + other) if one + other else 0.0,
        "voi_split": float(split),
        "voi_merge": float(merge),
    }


def _match_scores(overlaps: _Overlaps) -> dict[str, float]:
    """Return the scores of matched instances."""
    n_true = int(np.count_nonzero(overlaps.true_sizes[1:]))
    n_pred = int(np.count_nonzero(overlaps.pred_sizes[1:]))
    shared, union = _match(overlaps)
    # Whole numbers, so that an IoU of exactly 0.55 counts for 0.55.
    n_matched = [int((20 * shared >= k * union).sum()) for k in range(10, 20)]
    accuracy = [_ratio(n, n_true + n_pred - n, n_true + n_pred) for n in n_matched]
    matched = n_matched[0]
    total_iou = float((shared / union).sum())
    return {
        "f1_50": _ratio(2 * matched, n_true + n_pred, n_true + n_pred),
        "precision_50": _ratio(matched, n_pred, n_true),
        "recall_50": _ratio(matched, n_true, n_pred),
        "ap": sum(accuracy) / len(accuracy),
        "ap_50": accuracy[0],
        "pq_50": _ratio(2 * total_iou, n_true + n_pred, n_true + n_pred),
    }


def _ratio(numerator: float, denominator: float, n_others: int) -> float:
    """Return the quotient; of nothing, 1 when the other side is empty too, else 0."""
    return numerator / denominator if denominator else float(n_others == 0)


def _match(overlaps: _Overlaps) -> Sequence[NDArray[np.int64]]:
    """Return intersection and union of the matched pairs, those of IoU ≥ 0.5.

    Above 0.5 a pair excludes all others; among several of exactly 0.5 the first
    are taken.
    """
    true_sizes = overlaps.true_sizes[overlaps.true_ids]
    pred_sizes = overlaps.pred_sizes[overlaps.pred_ids]
    union = true_sizes + pred_sizes - overlaps.counts
    fits = (overlaps.true_ids > 0) & (overlaps.pred_ids > 0)
    fits &= 2 * overlaps.counts >= union
    shared, union = overlaps.counts[fits], union[fits]
    true_ids, pred_ids = overlaps.true_ids[fits], overlaps.pred_ids[fits]
    order = np.argsort(-shared / union, kind="stable")
    order = order[_first_of_each(true_ids[order])]
    order = order[_first_of_each(pred_ids[order])]
    return shared[order], union[order]


def _first_of_each(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each id stands for the first time, in order."""
    return np.sort(np.unique(ids, return_index=True)[1])
