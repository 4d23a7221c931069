"""The volumes that a model is tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import DataConfig
from napari_volseg.errors import DataError
from napari_volseg.io import expand_sources, open_volume, read_labels, read_mask
from napari_volseg.runs.folder import read_run
from napari_volseg.runs.pairs import TrainingPair, absolute_source
from napari_volseg.runs.revisions import newest_pairs
from napari_volseg.volume import LabelledVolume, Volume, read_annotation

__all__ = ["TestVolume", "collect_test_volumes", "validation_volumes"]


@dataclass(frozen=True, slots=True)
class TestVolume:
    """A volume to predict, and the truth to score the prediction with."""

    __test__ = False

    image: Volume
    source: str | None
    """Where the image lives when that is a file; None when it is in memory."""
    labels_ZYX: NDArray[np.integer] | None
    """None when there is no truth: then nothing is scored."""
    annotated_ZYX: NDArray[np.bool_] | None
    """Where the truth is known; None means everywhere."""
    mask_ZYX: NDArray[np.bool_] | None
    """Where to predict; None means everywhere."""
    others: tuple[str, ...] = ()
    """Sources of the truth and the mask, where they live in files."""


def collect_test_volumes(data: DataConfig) -> list[TestVolume]:
    """Open the test volumes that a configuration names; empty without any.

    Globs pair up in order: the first image with the first label file.

    Raises
    ------
    DataError
        If images, labels and masks do not pair up, or a file cannot be used.
    """
    if not data.test_image:
        if data.test_label or data.test_mask:
            raise DataError("data.test_label and data.test_mask need data.test_image")
        return []
    images = expand_sources(data.test_image)
    labels = _beside(images, data.test_label, "label")
    masks = _beside(images, data.test_mask, "mask")
    return [
        _open(data, image, label, mask)
        for image, label, mask in zip(images, labels, masks, strict=True)
    ]


def validation_volumes(run_folder: Path) -> list[TestVolume]:
    """Return the validation volumes of a run, empty when it held out a part instead.

    With the labels that the run was given last.

    Raises
    ------
    DataError
        As `napari_volseg.runs.read_run`.
    """
    pairs = newest_pairs(run_folder, read_run(run_folder)[1])
    return [_of_pair(p) for p in pairs if p.role == "val"]


def _of_pair(pair: TrainingPair) -> TestVolume:
    volume = pair.volume
    return TestVolume(
        volume.image, pair.source, volume.labels_ZYX, volume.annotated_ZYX, None
    )


def _beside(
    images: Sequence[str], sources: Sequence[str], kind: str
) -> Sequence[str | None]:
    if not sources:
        return [None] * len(images)
    found = expand_sources(sources)
    if len(found) != len(images):
        raise DataError(
            f"data.test_image names {len(images)} volumes but data.test_{kind} "
            f"{len(found)}: give each image its {kind}, in the same order"
        )
    return found


def _open(
    data: DataConfig, image: str, label: str | None, mask: str | None
) -> TestVolume:
    volume = open_volume(image, voxel_size=data.voxel_size)
    mask_ZYX = None if mask is None else read_mask(mask)
    labels_ZYX = annotated_ZYX = None
    if label is not None:
        labels_ZYX, annotated_ZYX = read_annotation(
            read_labels(label), data.annotated, data.background_id, mask_ZYX, name=label
        )
        LabelledVolume(volume, labels_ZYX, annotated_ZYX)  # which compares them
    if mask_ZYX is not None and mask_ZYX.shape != volume.shape_ZYX:
        raise DataError(
            f"the mask {mask} has the shape {mask_ZYX.shape} but {image} has "
            f"{volume.shape_ZYX}: they must cover the same voxels"
        )
    return TestVolume(
        volume,
        absolute_source(image),
        labels_ZYX,
        annotated_ZYX,
        mask_ZYX,
        tuple(source for source in (label, mask) if source is not None),
    )
