"""Mend labels on a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.annotation_check.findings import Finding
from napari_volseg.annotation_check.objects import between_slices
from napari_volseg.annotation_check.pieces import Pieces, find_pieces, find_pockets
from napari_volseg.errors import DataError

__all__ = ["fix_labels"]

_PIECES = ("split", "fragment")
_POCKETS = ("hole", "gap")


def fix_labels(
    labels_ZYX: NDArray[np.integer[Any]],
    annotated_ZYX: NDArray[np.bool_] | None,
    findings: Sequence[Finding],
) -> tuple[NDArray[np.integer[Any]], int]:
    """Return a copy in which findings are mended, and the number that were.

    Parameters
    ----------
    labels_ZYX, annotated_ZYX
        As they were checked; never written.
    findings
        Findings of exactly these labels. Those without a fix are left out.

    Raises
    ------
    DataError
        If a finding does not belong to these labels.
    """
    wanted = [f for f in findings if f.fix and f.new_label is not None]
    top = max((int(f.new_label or 0) for f in wanted), default=0)
    mended = labels_ZYX.astype(_dtype_for(labels_ZYX, top), copy=True)
    for finding in wanted:
        if finding.kind == "missing":
            z = finding.position[0]
            absent = between_slices(labels_ZYX, annotated_ZYX, z)
            part = absent & (labels_ZYX[z - 1] == finding.label)
            _check_belongs(bool(part.any()), finding)
            mended[z][part] = finding.label
    for kinds, find in ((_PIECES, find_pieces), (_POCKETS, find_pockets)):
        chosen = [f for f in wanted if f.kind in kinds]
        if chosen:
            _recolour(mended, find(labels_ZYX, annotated_ZYX), chosen, labels_ZYX)
    return mended, len(wanted)


def _recolour(
    mended: NDArray[np.integer[Any]],
    pieces: Pieces,
    findings: Sequence[Finding],
    labels_ZYX: NDArray[np.integer[Any]],
) -> None:
    for finding in findings:
        piece = int(pieces.pieces_ZYX[finding.position])
        found = int(labels_ZYX[finding.position])
        expected = finding.label if finding.kind in _PIECES else 0
        _check_belongs(
            bool(piece)
            and found == expected
            and int(pieces.sizes[piece]) == finding.size,
            finding,
        )
        box = pieces.boxes[piece]
        mended[box][pieces.pieces_ZYX[box] == piece] = int(finding.new_label or 0)


def _check_belongs(is_so: bool, finding: Finding) -> None:
    if not is_so:
        raise DataError(
            f"the labels were changed at {finding.position} since they were checked: "
            "check them again"
        )


def _dtype_for(
    labels_ZYX: NDArray[np.integer[Any]], top: int
) -> np.dtype[np.integer[Any]]:
    """Return the type of the labels, or one that holds a new id too."""
    dtype = labels_ZYX.dtype
    if top <= np.iinfo(dtype).max:
        return dtype
    return np.dtype(np.int32 if top < 2**31 else np.int64)
