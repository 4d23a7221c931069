"""New labels for a run that goes on: revisions beside the snapshot it began with.

A run begins with revision 1, ``data/pairs.json``. Each later one is a folder of its
own, ``data/r002`` and so on, that counts from the moment its ``revision.json`` is
there, which is written last. Images never change.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.io import (
    Source,
    open_labels,
    read_mask,
    write_hdf5,
    write_json,
)
from napari_volseg.runs.annotations import read_annotated
from napari_volseg.runs.control import write_control
from napari_volseg.runs.folder import PAIRS, is_run
from napari_volseg.runs.pairs import TrainingPair
from napari_volseg.volume import LabelledVolume

__all__ = [
    "FIRST_REVISION",
    "NewLabels",
    "add_revision",
    "newest_annotated",
    "newest_pairs",
    "newest_revision",
    "read_revision",
    "remove_revisions",
]

FIRST_REVISION = 1
_TABLE = "revision.json"
_FORMAT = 1
_SLAB = 32


@dataclass(frozen=True, slots=True)
class NewLabels:
    """Labels of one pair of a run, as they are now."""

    labels_ZYX: NDArray[np.integer[Any]]
    annotated_ZYX: NDArray[np.bool_] | None = None
    """True where the label counts; None means everywhere."""


def add_revision(folder: Path, labels: Sequence[NewLabels]) -> int:
    """Hand new labels to a run; it takes them at its next step.

    A run that does not train at the moment takes them when it is resumed. Labels that
    are as they were handed in last make no revision.

    Parameters
    ----------
    folder
        The run folder.
    labels
        One for each pair of the run, in their order; read, never written.

    Returns
    -------
    int
        The number of the newest revision now, 2 for the first new labels.

    Raises
    ------
    DataError
        If it is no run, the labels do not cover the voxels of its images, nothing is
        labelled any more, or the folder cannot be written.
    """
    folder = Path(folder).absolute()
    entries = _entries(folder)
    if len(labels) != len(entries):
        raise DataError(
            f"the run '{folder.name}' learns from {len(entries)} images and labels for "
            f"{len(labels)} were given: give each of its images its labels, in the "
            f"order {', '.join(entry['name'] for entry in entries)}"
        )
    for entry, new in zip(entries, labels, strict=True):
        _check(entry, new, folder)
    newest = newest_revision(folder)
    if _are_known(folder, newest, entries, labels):
        return newest
    number, place = _new_place(folder)
    try:
        for index, (entry, new) in enumerate(zip(entries, labels, strict=True)):
            arrays: dict[str, Any] = {"labels": new.labels_ZYX}
            if new.annotated_ZYX is not None:
                arrays["annotated"] = new.annotated_ZYX.view(np.uint8)
            z, y, x = (float(v) for v in entry["voxel_size"])
            write_hdf5(place / f"{index:03d}.h5", arrays, (z, y, x))
        write_json(
            place / _TABLE,
            {
                "format": _FORMAT,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "annotated": [new.annotated_ZYX is not None for new in labels],
            },
        )
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    write_control(folder, revision=number)
    return number


def newest_revision(folder: Path) -> int:
    """Return the number of the newest complete revision of a run, 1 at first."""
    numbers = [_number(path.parent) for path in (folder / "data").glob(f"r*/{_TABLE}")]
    return max([FIRST_REVISION, *numbers])


def newest_annotated(folder: Path) -> list[NDArray[np.bool_] | None]:
    """Return where the newest labels of each pair count, None for everywhere.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    newest = newest_revision(folder)
    files = _files(folder, newest, _entries(folder))
    return [
        read_mask(str(Source(file, "annotated", None))) if has_mask else None
        for file, has_mask in files
    ]


def read_revision(
    folder: Path, revision: int, pairs: Sequence[TrainingPair]
) -> list[TrainingPair]:
    """Return the pairs of a run with the labels of a revision.

    Parameters
    ----------
    pairs
        From `read_run`: their images are used as they are.

    Raises
    ------
    DataError
        If the labels are gone, damaged, empty or do not cover the images.
    """
    if revision == FIRST_REVISION:
        return list(pairs)
    place = _place(folder, revision)
    given = _masks(place, revision)
    if len(given) != len(pairs):
        raise DataError(
            f"revision {revision} in {place} has labels for {len(given)} images and "
            f"the run has {len(pairs)}"
        )
    return [
        _restore(pair, place / f"{index:03d}.h5", has_mask)
        for index, (pair, has_mask) in enumerate(zip(pairs, given, strict=True))
    ]


def newest_pairs(folder: Path, pairs: Sequence[TrainingPair]) -> list[TrainingPair]:
    """Return the pairs of a run with the labels it was given last.

    Raises
    ------
    DataError
        As `read_revision`.
    """
    return read_revision(folder, newest_revision(folder), pairs)


def remove_revisions(folder: Path, below: int) -> None:
    """Remove revisions that no checkpoint needs any more; the first one stays.

    The held-out boxes are found in the first, and images of layers are kept there.
    """
    for place in (folder / "data").glob("r*"):
        if FIRST_REVISION < _number(place) < below:
            shutil.rmtree(place, ignore_errors=True)


def _masks(place: Path, revision: int) -> list[bool]:
    """Return of each pair whether a revision says where its labels count."""
    try:
        annotated = json.loads((place / _TABLE).read_text("utf-8"))["annotated"]
        return [bool(value) for value in annotated]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"the labels of revision {revision} of the run are not in {place} or "
            "damaged: hand in labels anew with 'volseg labels'"
        ) from None


def _files(
    folder: Path, revision: int, entries: Sequence[dict[str, Any]]
) -> list[tuple[Path, bool]]:
    """Return the file of each pair, and whether it has a mask."""
    if revision == FIRST_REVISION:
        names = [Path(str(entry["file"])).name for entry in entries]
        masks = [bool(entry["annotated"]) for entry in entries]
        return [
            (folder / "data" / name, has_mask)
            for name, has_mask in zip(names, masks, strict=True)
        ]
    place = _place(folder, revision)
    masks = _masks(place, revision)
    return [(place / f"{i:03d}.h5", has_mask) for i, has_mask in enumerate(masks)]


def _are_known(
    folder: Path,
    revision: int,
    entries: Sequence[dict[str, Any]],
    labels: Sequence[NewLabels],
) -> bool:
    """Whether labels are those of a revision, voxel by voxel."""
    try:
        return all(
            has_mask == (new.annotated_ZYX is not None)
            and _equal(file, "labels", new.labels_ZYX)
            and (
                new.annotated_ZYX is None
                or _equal(file, "annotated", new.annotated_ZYX)
            )
            for (file, has_mask), new in zip(
                _files(folder, revision, entries), labels, strict=True
            )
        )
    except (DataError, ValueError):  # what is damaged is not the same
        return False


def _equal(file: Path, dataset: str, array_ZYX: Any) -> bool:
    stored = open_labels(str(Source(file, dataset, None)))
    return all(
        np.array_equal(stored[z : z + _SLAB], array_ZYX[z : z + _SLAB])
        for z in range(0, len(array_ZYX), _SLAB)
    )


def _entries(folder: Path) -> list[dict[str, Any]]:
    if not is_run(folder):
        raise DataError(f"{folder} is not a run folder: see 'volseg runs'")
    try:
        entries = json.loads((folder / PAIRS).read_text("utf-8"))["pairs"]
        return [{**entry, "name": str(entry["name"])} for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / PAIRS} is damaged ({error}): start anew") from None


def _check(entry: dict[str, Any], new: NewLabels, folder: Path) -> None:
    stored = folder / "data" / Path(str(entry["file"])).name
    shape = tuple(open_labels(str(Source(stored, "labels", None))).shape)
    name = entry["name"]
    if tuple(new.labels_ZYX.shape) != shape:
        raise DataError(
            f"the new labels of {name} have the shape {tuple(new.labels_ZYX.shape)} "
            f"but the run learns from {shape}: images cannot change while a run goes "
            "on, so give labels of the same voxels or start a new run"
        )
    known = new.annotated_ZYX
    if known is not None and not known.any():
        raise DataError(
            f"nothing of {name} is annotated any more: paint or draw where the labels "
            "count"
        )
    if not new.labels_ZYX.any():
        raise DataError(f"the new labels of {name} are empty: paint some objects first")


def _new_place(folder: Path) -> tuple[int, Path]:
    """Make the folder of the next revision; nobody else can make the same."""
    highest = max(
        [FIRST_REVISION, *(_number(path) for path in (folder / "data").glob("r*"))]
    )
    for number in count(highest + 1):
        place = _place(folder, number)
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise DataError(
                f"cannot write in the run folder {folder}: {error.strerror or error}"
            ) from None
        return number, place
    raise AssertionError("count() ends")  # pragma: no cover


def _place(folder: Path, revision: int) -> Path:
    return folder / "data" / f"r{revision:03d}"


def _number(place: Path) -> int:
    text = place.name[1:]
    return int(text) if text.isascii() and text.isdigit() else 0


def _restore(pair: TrainingPair, file: Path, has_mask: bool) -> TrainingPair:
    labels_ZYX, annotated_ZYX = read_annotated(
        str(Source(file, "labels", None)),
        str(Source(file, "annotated", None)) if has_mask else None,
        folder=file.parent,
    )
    volume = LabelledVolume(pair.volume.image, labels_ZYX, annotated_ZYX)
    return replace(pair, volume=volume)
