"""Find what is wrong with an annotation before a network learns it.

`check_annotation` looks at an image and its labels and returns findings;
`fix_labels` mends some of them on a copy. Nothing here writes to what it is given.
cc3d holds Python's interpreter lock, so the process of napari runs this through the
command line.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.annotation_check.alignment import check_alignment
from napari_volseg.annotation_check.findings import (
    KINDS,
    Finding,
    sort_findings,
    summary_words,
)
from napari_volseg.annotation_check.fixing import fix_labels
from napari_volseg.annotation_check.objects import check_objects
from napari_volseg.annotation_check.sections import check_sections
from napari_volseg.volume import Volume

__all__ = [
    "KINDS",
    "Finding",
    "check_annotation",
    "check_labels",
    "fix_labels",
    "sort_findings",
    "summary_words",
]


def check_annotation(
    image: Volume,
    labels_ZYX: NDArray[np.integer[Any]],
    annotated_ZYX: NDArray[np.bool_] | None = None,
    *,
    min_size: int | None = None,
) -> list[Finding]:
    """Check an image with its labels.

    Parameters
    ----------
    image
        Read slice by slice.
    labels_ZYX
        Instance ids, 0 is background where annotated.
    annotated_ZYX
        True where labels count; None means everywhere.
    min_size
        Pieces of fewer voxels are fragments; None takes a fiftieth of the median
        object, at least 8.

    Returns
    -------
    list of Finding
        Serious ones first. When the shapes differ, that and what the labels alone
        show.
    """
    if labels_ZYX.shape != image.shape_ZYX:
        message = (
            f"the labels have the shape {labels_ZYX.shape} and the image "
            f"{image.shape_ZYX}: they must cover the same voxels"
        )
        odd = Finding("shape", "error", 0, (0, 0, 0), int(labels_ZYX.size), message)
        return [odd, *check_labels(labels_ZYX, min_size=min_size)]
    return sort_findings(
        [
            *check_labels(labels_ZYX, annotated_ZYX, min_size=min_size),
            *check_sections(image),
            *check_alignment(image, labels_ZYX, annotated_ZYX),
        ]
    )


def check_labels(
    labels_ZYX: NDArray[np.integer[Any]],
    annotated_ZYX: NDArray[np.bool_] | None = None,
    *,
    min_size: int | None = None,
) -> list[Finding]:
    """Check labels without their image; see `check_annotation`."""
    known = None if annotated_ZYX is None or annotated_ZYX.all() else annotated_ZYX
    labels = labels_ZYX if known is None else np.where(known, labels_ZYX, 0)
    return sort_findings(check_objects(labels, known, min_size))
