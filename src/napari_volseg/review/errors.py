"""Which instances of a prediction are wrong, and in what way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.overlaps import Overlaps, count_overlaps

__all__ = ["KINDS", "find_errors", "score_curves"]

KINDS = ("missed", "extra", "split", "merged", "inexact")
"""Kind 1 is the first; 0 is no error."""

_MINE = 0.5
"""A share from which a part belongs to a whole."""
_CRUMB = 0.05
"""Smaller shares of an object do not split it."""

Labels = NDArray[np.integer[Any]]
Table = Mapping[str, NDArray[Any]]


def find_errors(
    pred_ZYX: Labels, truth_ZYX: Labels, tables: tuple[Table, Table]
) -> tuple[list[dict[str, Any]], NDArray[np.uint8]]:
    """Name every object and instance that do not fit each other.

    - *merged*: an instance that holds half or more of each of several objects;
    - *split*: an object that holds half or more of each of several instances, crumbs
      below 5 % of the object left out;
    - *missed*: another object of which no instance holds half;
    - *inexact*: another object that meets its instance with an IoU below 0.5;
    - *extra*: an instance that holds half of no object, and does not lie in one.

    Parameters
    ----------
    pred_ZYX, truth_ZYX
        Instance ids, 0 = background.
    tables
        `instance_table` of prediction and truth.

    Returns
    -------
    errors
        For each: ``kind``, ``label`` and whether it is one of the ``truth``, its
        ``voxels``, ``position`` (z, y, x), best ``iou``, and the ids of the other
        side that are its ``partners``.
    kinds_ZYX
        Number of the kind (from 1) in the voxels of each.
    """
    pairs = _pairs(count_overlaps(pred_ZYX, truth_ZYX))
    found: list[tuple[str, int, list[int]]] = []
    holds: dict[int, list[int]] = defaultdict(list)
    pieces: dict[int, list[int]] = defaultdict(list)
    best: dict[int, float] = defaultdict(float)
    held: set[int] = set()
    inside: set[int] = set()
    best_pred: dict[int, float] = defaultdict(float)
    for t, p, of_truth, of_pred, iou in pairs:
        best[t] = max(best[t], iou)
        best_pred[p] = max(best_pred[p], iou)
        if of_truth >= _MINE:
            holds[p].append(t)
            held.add(t)
        if of_pred >= _MINE:
            inside.add(p)
            if of_truth >= _CRUMB:
                pieces[t].append(p)
    merged = {p: ts for p, ts in holds.items() if len(ts) > 1}
    split = {t: ps for t, ps in pieces.items() if len(ps) > 1}
    found += [("merged", p, ts) for p, ts in merged.items()]
    found += [("split", t, ps) for t, ps in split.items()]
    in_merge = {t for ts in merged.values() for t in ts}
    for t in tables[1]["index"].tolist():
        if t in in_merge or t in split:
            continue
        if t not in held:
            found.append(("missed", t, []))
        elif best[t] < _MINE:
            found.append(("inexact", t, [p for a, p, *_ in pairs if a == t]))
    found += [
        ("extra", p, [])
        for p in tables[0]["index"].tolist()
        if not holds.get(p) and p not in inside
    ]
    sides = {True: (tables[1], best), False: (tables[0], best_pred)}
    errors = [
        _described(kind, label, partners, *sides[_is_truth(kind)])
        for kind, label, partners in sorted(found)
    ]
    return errors, _paint(found, pred_ZYX, truth_ZYX, tables)


def score_curves(
    pred_ZYX: Labels, truth_ZYX: Labels, tables: tuple[Table, Table]
) -> dict[str, list[float]]:
    """Return F1 and accuracy, TP / (TP + FP + FN), for IoU 0.5, 0.51 … 1."""
    pairs = _pairs(count_overlaps(pred_ZYX, truth_ZYX))
    ious = []
    taken: tuple[set[int], set[int]] = set(), set()
    for t, p, _, _, iou in sorted(pairs, key=lambda pair: -pair[4]):
        if iou >= _MINE and t not in taken[0] and p not in taken[1]:
            taken[0].add(t)
            taken[1].add(p)
            ious.append(iou)
    n_pred, n_truth = (len(table["index"]) for table in tables)
    levels = [n / 100 for n in range(50, 101)]
    n_found = [sum(iou >= level - 1e-9 for iou in ious) for level in levels]
    total = n_pred + n_truth
    return {
        "iou": levels,
        "f1": [2 * n / total if total else 1.0 for n in n_found],
        "accuracy": [n / (total - n) if total else 1.0 for n in n_found],
    }


def _pairs(overlaps: Overlaps) -> list[tuple[int, int, float, float, float]]:
    """Return true id, predicted id, share of either, and IoU of all that overlap."""
    sizes: tuple[dict[int, int], dict[int, int]] = defaultdict(int), defaultdict(int)
    triples = [
        (int(t), int(p), int(n))
        for t, p, n in zip(
            overlaps.true_ids, overlaps.pred_ids, overlaps.counts, strict=True
        )
    ]
    for t, p, n in triples:
        sizes[0][t] += n
        sizes[1][p] += n
    return [
        (t, p, n / sizes[0][t], n / sizes[1][p], n / (sizes[0][t] + sizes[1][p] - n))
        for t, p, n in triples
        if t and p
    ]


def _is_truth(kind: str) -> bool:
    return kind in ("missed", "split", "inexact")


def _described(
    kind: str, label: int, partners: list[int], table: Table, best: Mapping[int, float]
) -> dict[str, Any]:
    row = int(np.searchsorted(table["index"], label))
    return {
        "kind": kind,
        "label": label,
        "truth": _is_truth(kind),
        "voxels": int(table["voxels"][row]),
        "position": [round(float(table[axis][row])) for axis in "zyx"],
        "iou": float(best.get(label, 0.0)),
        "partners": partners,
    }


def _paint(
    found: list[tuple[str, int, list[int]]],
    pred_ZYX: Labels,
    truth_ZYX: Labels,
    tables: tuple[Table, Table],
) -> NDArray[np.uint8]:
    kinds_ZYX = np.zeros(truth_ZYX.shape, np.uint8)
    for is_truth, labels, table in (
        (False, pred_ZYX, tables[0]),
        (True, truth_ZYX, tables[1]),
    ):
        index = table["index"]
        numbers = np.zeros(len(index), np.uint8)
        for kind, label, _ in found:
            if _is_truth(kind) == is_truth:
                numbers[np.searchsorted(index, label)] = KINDS.index(kind) + 1
        if not numbers.any():
            continue
        for plane, here in zip(kinds_ZYX, labels, strict=True):
            rows = np.searchsorted(index, here)
            kind_YX = np.where(here > 0, numbers[np.minimum(rows, len(index) - 1)], 0)
            np.copyto(plane, kind_YX, where=kind_YX > 0)
    return kinds_ZYX
