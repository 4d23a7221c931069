"""What a run will learn from, captured from layers at the moment of Start.

Capturing runs on the GUI thread and is quick; building, which reads and checks
every voxel, runs in a worker thread. What is painted afterwards never reaches
the run.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray

from napari_volseg.geometry import Box
from napari_volseg.runs import TrainingPair
from napari_volseg.runs.folder import PAIRS
from napari_volseg.runs.pairs import Role
from napari_volseg.volume import (
    AnnotationRule,
    LabelledVolume,
    Volume,
    read_annotation,
)
from napari_volseg.widgets.layers import (
    METADATA_KEY,
    check_aligned,
    image_volume,
    labels_array,
    layer_source,
)
from napari_volseg.widgets.regions import Region, capture_region

__all__ = [
    "Annotated",
    "PairSnapshot",
    "capture_pair",
    "corrected_boxes",
    "lock_layers",
    "own_rule",
    "own_words",
    "pair_names",
]

COPY_AT_ONCE = 32 * 2**20
"""Bytes that may be copied on the GUI thread: about 10 ms."""


@dataclass(frozen=True)
class Annotated:
    """Which voxels of the pairs count, as chosen in the dock."""

    rule: AnnotationRule = "everywhere"
    background_id: int = 0
    region: Layer | None = None
    all_slices: bool = False
    """Whether an outline counts in all slices or in its own."""


@dataclass(frozen=True)
class PairSnapshot:
    """An image and its labels as they were at one moment."""

    image: Volume
    source: str | None
    labels: Any
    labels_name: str
    annotated: Annotated
    region: Region | None
    locked: weakref.ref[Labels] | None = None
    """A layer too large to copy at once: it must not change until `build` is done."""
    corrected: tuple[Box, ...] = ()
    """Where a review corrected instances."""

    def build(self, role: Role = "train") -> TrainingPair:
        """Read and check the labels; call it in a worker thread.

        Raises
        ------
        DataError
            For labels that are empty, negative or nowhere annotated.
        """
        labels_ZYX, annotated_ZYX = self.read()
        volume = LabelledVolume(self.image, labels_ZYX, annotated_ZYX)
        name = self.labels_name
        return TrainingPair(volume, self.source, role, name, self.corrected)

    def read(self) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_] | None]:
        """Return the labels (Z, Y, X) and where they count, None for everywhere."""
        region = (
            None
            if self.region is None
            else self.region.mask(self.image.shape_ZYX, self.annotated.all_slices)
        )
        return read_annotation(
            np.asarray(self.labels),
            self.annotated.rule,
            self.annotated.background_id,
            region,
            name=f"the labels layer '{self.labels_name}'",
        )


def own_rule(labels: Layer) -> Annotated | None:
    """Return which voxels count when the layer says so itself, else None.

    Layers made from a review or a run say it: an id of theirs means background, and
    what is not painted does not count.
    """
    origin = labels.metadata.get(METADATA_KEY)
    background = origin.get("background_id") if isinstance(origin, dict) else None
    return None if background is None else Annotated("painted_voxels", int(background))


def own_words(labels: Layer) -> dict[str, Any]:
    """Return the metadata with which a changed copy of labels says the same."""
    origin = labels.metadata.get(METADATA_KEY)
    known = origin if isinstance(origin, dict) else {}
    said = {key: known[key] for key in ("background_id", "corrected") if key in known}
    return {METADATA_KEY: said} if said else {}


def corrected_boxes(labels: Layer) -> tuple[Box, ...]:
    """Return where a review corrected instances, as the layer says it itself."""
    origin = labels.metadata.get(METADATA_KEY)
    boxes = origin.get("corrected", ()) if isinstance(origin, dict) else ()
    return tuple(box for box in boxes if isinstance(box, Box))


def capture_pair(
    image: Image, labels: Labels, annotated: Annotated, *, copy: bool = True
) -> PairSnapshot:
    """Return a snapshot of two layers; large labels are locked, not copied.

    Raises
    ------
    DataError
        If a layer is no volume or the two do not cover the same voxels.
    """
    volume = image_volume(image)
    data = labels_array(labels)
    check_aligned(image, labels, volume.shape_ZYX)
    region = (
        None
        if annotated.region is None
        else capture_region(annotated.region, image, volume.shape_ZYX)
    )
    source = layer_source(image)
    locked = None
    if copy:
        if source is None:
            volume = Volume(_copied(volume.data), volume.voxel_size, volume.name)
        if region is not None and region.labels is not None:
            region = Region(region.name, labels=np.array(region.labels) != 0)
        if not isinstance(data, np.ndarray) or data.nbytes > COPY_AT_ONCE:
            locked = weakref.ref(labels)
        data = _copied(data)
    name, corrected = str(labels.name), corrected_boxes(labels)
    return PairSnapshot(
        volume, source, data, name, annotated, region, locked, corrected
    )


def _copied(data: Any) -> Any:
    if isinstance(data, np.ndarray) and data.nbytes <= COPY_AT_ONCE:
        return data.copy()
    return data


def lock_layers(snapshots: Sequence[PairSnapshot]) -> Callable[..., None]:
    """Keep layers that were too large to copy from being painted on.

    Returns what lets go of them again; calling it twice does no harm.
    """
    locked = []
    for snapshot in snapshots:
        layer = None if snapshot.locked is None else snapshot.locked()
        if layer is not None and layer.editable:
            layer.editable = False
            locked.append(snapshot.locked)

    def unlock(*_: object) -> None:
        while locked:
            reference = locked.pop()
            layer = None if reference is None else reference()
            if layer is not None:
                layer.editable = True

    return unlock


def pair_names(folder: Path) -> list[str]:
    """Return the names of a run's images in order; none for a damaged run."""
    try:
        pairs = json.loads((folder / PAIRS).read_text("utf-8"))["pairs"]
        return [str(pair["name"]) for pair in pairs]
    except (OSError, ValueError, KeyError, TypeError):
        return []
