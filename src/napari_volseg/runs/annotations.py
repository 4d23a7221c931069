"""Labels and masks read for training, in memory or mapped from a nameless file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.io import open_labels, read_labels, read_mask
from napari_volseg.io.scratch import new_array
from napari_volseg.volume import AnnotationRule, read_annotation

__all__ = ["read_annotated"]

_SHARE = 0.25
"""Labels that would take more than this share of the free memory are mapped."""
_SLAB = 2**26

Annotated = tuple[NDArray[np.integer[Any]], NDArray[np.bool_] | None]


def read_annotated(
    labels: str,
    mask: str | None = None,
    rule: AnnotationRule = "everywhere",
    background_id: int = 0,
    *,
    folder: Path | None = None,
    max_bytes: int | None = None,
) -> Annotated:
    """Read labels and the mask of where they count, as `read_annotation` checks them.

    Parameters
    ----------
    labels, mask
        Sources; without a mask the rule alone decides.
    folder
        Where large labels are mapped from files that have no name; by default the
        system's folder for temporary files.
    max_bytes
        Labels that would take more are mapped; by default a quarter of the memory
        that is free.

    Raises
    ------
    DataError
        If a file cannot be used, an id is not valid, the shapes differ, or the disk
        has no room.
    """
    lazy = open_labels(labels)
    if max_bytes is None:
        max_bytes = int(_SHARE * psutil.virtual_memory().available)
    if lazy.size * 8 <= max_bytes:
        stored = None if mask is None else read_mask(mask)
        return read_annotation(
            read_labels(labels), rule, background_id, stored, name=labels
        )
    lazy_mask = None if mask is None else open_labels(mask)
    if lazy_mask is not None and lazy_mask.shape != lazy.shape:
        raise DataError(
            f"the annotated mask of {labels} has the shape {lazy_mask.shape} but the "
            f"labels have {lazy.shape}"
        )
    folder = folder or Path(tempfile.gettempdir())
    kept = new_array(lazy.shape, _type_of(lazy.dtype), folder)
    known: NDArray[np.bool_] | None = None
    depth = max(1, _SLAB // max(1, 8 * lazy.size // lazy.shape[0]))
    for z in range(0, lazy.shape[0], depth):
        part = slice(z, min(z + depth, lazy.shape[0]))
        slab, annotated = read_annotation(
            lazy[part],
            rule,
            background_id,
            None if lazy_mask is None else lazy_mask[part] != 0,
            name=labels,
        )
        kept[part] = slab
        if annotated is not None:
            if known is None:
                known = new_array(lazy.shape, np.bool_, folder)
            known[part] = annotated
    return kept, known


def _type_of(stored: np.dtype[Any]) -> type[np.integer[Any]]:
    """Return what holds every id that the stored type can."""
    small = stored.itemsize < 4 or stored == np.int32
    return np.int32 if small and stored.kind in "bui" else np.int64
