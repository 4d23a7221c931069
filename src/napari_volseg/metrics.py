"""Scores of instances against the annotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

__all__ = ["evaluate"]

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
    if annotated_ZYX is None:
        pred, truth = pred_ZYX.reshape(-1), truth_ZYX.reshape(-1)
    else:
        pred, truth = pred_ZYX[annotated_ZYX], truth_ZYX[annotated_ZYX]
    overlaps = _count_overlaps(pred, truth, min_size)
    return {
        **_pair_scores(overlaps),
        **_match_scores(overlaps),
        "n_true": float(np.count_nonzero(overlaps.true_sizes[1:])),
        "n_pred": float(np.count_nonzero(overlaps.pred_sizes[1:])),
    }


@dataclass(frozen=True, slots=True)
class _Overlaps:
    """How many voxels each true and each predicted instance share, zeros left out."""

    true_ids: NDArray[np.int64]
    """Of each overlap; 0 is background."""
    pred_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    true_sizes: NDArray[np.int64]
    """Voxels of each true id; 0 where the id was dropped."""
    pred_sizes: NDArray[np.int64]


def _count_overlaps(pred: Labels, truth: Labels, min_size: int) -> _Overlaps:
    dense_true, true_names = fastremap.renumber(truth)
    dense_pred, pred_names = fastremap.renumber(pred)
    n_pred = int(max(pred_names.values(), default=0)) + 1
    n_true = int(max(true_names.values(), default=0)) + 1
    pairs = dense_true.astype(np.int64)
    pairs *= n_pred
    pairs += dense_pred
    keys, counts = fastremap.unique(pairs, return_counts=True)
    keys, counts = keys.astype(np.int64), counts.astype(np.int64)
    true_ids, pred_ids = np.divmod(keys, n_pred)
    true_ids, true_sizes = _drop_small(true_ids, counts, n_true, min_size)
    pred_ids, pred_sizes = _drop_small(pred_ids, counts, n_pred, min_size)
    return _Overlaps(true_ids, pred_ids, counts, true_sizes, pred_sizes)


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
