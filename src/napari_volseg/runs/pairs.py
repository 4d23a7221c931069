"""What a training learns from: images with labels, from files or layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from napari_volseg.config import Config, DataConfig
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.io import expand_home, expand_sources, open_volume, parse_source
from napari_volseg.runs.annotations import read_annotated
from napari_volseg.volume import LabelledVolume

__all__ = ["Role", "TrainingPair", "absolute_file", "absolute_source", "collect_pairs"]

Role = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A labelled volume and what it is for."""

    volume: LabelledVolume
    source: str | None
    """Where the image lives when that is a file; None when it is in memory."""
    role: Role = "train"
    labels_name: str = ""
    """The layer that the labels come from; empty for a file."""
    corrected: tuple[Box, ...] = ()
    """Where a review corrected instances; these places get a share of the patches."""


def collect_pairs(config: Config) -> list[TrainingPair]:
    """Open the images that the configuration names and read their labels.

    Globs pair up in order: the first image with the first label file.

    Raises
    ------
    DataError
        If there is no training image, images and labels do not pair up, or a
        file cannot be used.
    """
    data = config.data
    if not data.train_image:
        raise DataError(
            "there is nothing to train on: give --image SRC --label SRC, or "
            "data.train_image and data.train_label in the configuration"
        )
    pairs = _collect(data, "train", data.train_image, data.train_label, data.train_mask)
    pairs += _collect(data, "val", data.val_image, data.val_label, data.val_mask)
    return pairs


def absolute_source(source: str) -> str:
    """Return the source with an absolute path."""
    parsed = parse_source(source)
    return str(replace(parsed, path=expand_home(parsed.path).absolute()))


def absolute_file(path: str) -> str:
    """Return the absolute path of a file."""
    return str(expand_home(path).absolute())


def _collect(
    data: DataConfig,
    role: Role,
    images: Sequence[str],
    labels: Sequence[str],
    masks: Sequence[str],
) -> list[TrainingPair]:
    image_sources = expand_sources(images) if images else []
    label_sources = expand_sources(labels) if labels else []
    mask_sources = expand_sources(masks) if masks else []
    _check_counts(role, image_sources, label_sources, mask_sources)
    pairs = []
    for i, (image, label) in enumerate(zip(image_sources, label_sources, strict=True)):
        labels_ZYX, annotated_ZYX = read_annotated(
            label,
            mask_sources[i] if mask_sources else None,
            data.annotated,
            data.background_id,
        )
        volume = open_volume(image, voxel_size=data.voxel_size)
        labelled = LabelledVolume(volume, labels_ZYX, annotated_ZYX)
        pairs.append(TrainingPair(labelled, absolute_source(image), role))
    return pairs


def _check_counts(
    role: Role, images: Sequence[str], labels: Sequence[str], masks: Sequence[str]
) -> None:
    if len(images) != len(labels):
        raise DataError(
            f"data.{role}_image names {len(images)} volumes but data.{role}_label "
            f"{len(labels)}: give each image its labels, in the same order "
            f"(images: {_some(images)}; labels: {_some(labels)})"
        )
    if masks and len(masks) != len(images):
        raise DataError(
            f"data.{role}_mask names {len(masks)} volumes but data.{role}_image "
            f"{len(images)}: give each image its mask, or none at all"
        )


def _some(sources: Sequence[str]) -> str:
    names = [Path(source).name for source in sources[:3]]
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    return (", ".join(names) + more) or "none"
