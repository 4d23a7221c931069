"""How many voxels each true and each predicted instance share: one sparse table.

Everything that compares two segmentations follows from it. It is counted in parts and
added up, so it needs memory for pairs of instances and not for voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Overlaps", "add_overlaps", "count_overlaps"]

_ADD_AT = 2**20
"""Pairs that wait at least before they are added to the table."""

Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pairs of ids that share voxels, each once, sorted by true and predicted id."""

    true_ids: NDArray[np.uint64]
    """0 is background; a negative id counts as itself plus 2^64."""
    pred_ids: NDArray[np.uint64]
    counts: NDArray[np.int64]
    """Voxels that both have."""


def count_overlaps(
    pred_ZYX: Labels, truth_ZYX: Labels, annotated_ZYX: NDArray[np.bool_] | None = None
) -> Overlaps:
    """Count the voxels of each pair of ids.

    Parameters
    ----------
    pred_ZYX, truth_ZYX
        Ids of up to 64 bits, of one shape.
    annotated_ZYX
        Where to count; None means everywhere.
    """
    if annotated_ZYX is None:
        truth, pred = truth_ZYX.reshape(-1), pred_ZYX.reshape(-1)
    else:
        truth, pred = truth_ZYX[annotated_ZYX], pred_ZYX[annotated_ZYX]
    if truth.size == 0:
        empty = np.zeros(0, np.uint64)
        return Overlaps(empty, empty, np.zeros(0, np.int64))
    # Neighbours mostly have the same ids: of each run one voxel is looked at.
    changes = truth[1:] != truth[:-1]
    changes |= pred[1:] != pred[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=truth.size)
    return _collect(
        truth[starts].astype(np.uint64), pred[starts].astype(np.uint64), lengths
    )


def add_overlaps(tables: Iterable[Overlaps]) -> Overlaps:
    """Return the table of several parts of a volume, which are added as they come."""
    total, n_waiting = _collect(*_NOTHING), 0
    waiting: list[Overlaps] = []
    for table in tables:
        waiting.append(table)
        n_waiting += table.counts.size
        if n_waiting >= max(_ADD_AT, total.counts.size):
            total, n_waiting = _join([total, *waiting]), 0
            waiting.clear()
    return _join([total, *waiting])


_NOTHING = np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64)


def _join(tables: Sequence[Overlaps]) -> Overlaps:
    return _collect(
        np.concatenate([table.true_ids for table in tables]),
        np.concatenate([table.pred_ids for table in tables]),
        np.concatenate([table.counts for table in tables]),
    )


def _collect(
    true_ids: NDArray[np.uint64],
    pred_ids: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> Overlaps:
    """Sort pairs and add up those that are equal."""
    if counts.size == 0:
        return Overlaps(true_ids, pred_ids, counts)
    if max(int(true_ids.max()), int(pred_ids.max())) < 2**32:
        order = np.argsort(true_ids << np.uint64(32) | pred_ids)
    else:
        order = np.lexsort((pred_ids, true_ids))
    true_ids, pred_ids = true_ids[order], pred_ids[order]
    is_first = np.ones(counts.size, np.bool_)
    is_first[1:] = true_ids[1:] != true_ids[:-1]
    is_first[1:] |= pred_ids[1:] != pred_ids[:-1]
    firsts = np.flatnonzero(is_first)
    sums = np.add.reduceat(counts[order], firsts)
    return Overlaps(true_ids[firsts], pred_ids[firsts], sums)
