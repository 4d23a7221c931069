"""What there is to look at of a result: its image, maps and instances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from napari_volseg.errors import DataError
from napari_volseg.io import Source, list_datasets, open_volume, parse_source
from napari_volseg.results import (
    PREDICTIONS,
    RESULTS,
    SEGMENTATION,
    read_scores,
)
from napari_volseg.runs import is_prediction, is_run, read_prediction
from napari_volseg.volume import Volume

__all__ = ["Shown", "find_shown"]

Kind = Literal["image", "maps", "labels"]


@dataclass(frozen=True, slots=True)
class Shown:
    """One volume to look at."""

    name: str
    source: str
    kind: Kind


def find_shown(
    result: Path | None, image: str | None = None, label: str | None = None
) -> list[Shown]:
    """Return the volumes of a result, the image first.

    Parameters
    ----------
    result
        A run, a results folder, the folder of a prediction, or the output of
        ``volseg predict``; None when image or label say all.
    image, label
        Sources to look at in addition; the image takes the place of the one that
        the result was predicted from.

    Raises
    ------
    DataError
        If there is nothing to look at, or a file cannot be read.
    """
    found = [] if result is None else _of_result(result)
    if image is not None:
        found = [shown for shown in found if shown.kind != "image"]
        found.insert(0, Shown(_name(image), image, _kind_of_image(image)))
    if label is not None:
        found.append(Shown(_name(label), label, "labels"))
    if not found:
        raise DataError(
            "there is nothing to look at: give a run, a results folder, the output of "
            "'volseg predict', or --image SRC"
        )
    for shown in found:
        open_volume(shown.source)
    return found


def _of_result(result: Path) -> list[Shown]:
    if result.is_file() or result.suffix == ".zarr":
        return _of_file(result)
    if is_run(result):
        return _of_run(result)
    if is_prediction(result):
        return _of_prediction(result)
    if (result / PREDICTIONS).is_file():
        return _of_results(result)
    inner = sorted(path.parent.name for path in result.glob(f"*/{PREDICTIONS}"))
    if len(inner) == 1:
        return _of_results(result / inner[0])
    if inner:
        raise DataError(
            f"{result} holds the results of {len(inner)} volumes: choose one, for "
            f"instance {result / inner[0]}"
        )
    what = "holds no result" if result.is_dir() else "is not there"
    raise DataError(f"{result} {what}: choose a run, a results folder or a file")


def _of_run(run: Path) -> list[Shown]:
    if (run / RESULTS).is_dir():
        return _of_result(run / RESULTS)
    jobs = [path for path in (run / "predictions").glob("*") if is_prediction(path)]
    if not jobs:
        raise DataError(
            f"the run {run} has no results yet: 'volseg test {run.name}' makes some"
        )
    return _of_prediction(max(jobs, key=lambda path: path.stat().st_mtime_ns))


def _of_results(folder: Path) -> list[Shown]:
    found = _image_of_results(folder)
    found.append(Shown("predictions", str(folder / PREDICTIONS), "maps"))
    if (folder / SEGMENTATION).is_file():
        found.append(Shown("segmentation", str(folder / SEGMENTATION), "labels"))
    return found


def _image_of_results(folder: Path) -> list[Shown]:
    """Return the image that results were predicted from, where it still is."""
    for place, name in ((folder, "."), (folder.parent, folder.name)):
        scores = read_scores(place)
        for volume in scores.volumes if scores is not None else ():
            if volume.folder == name and _is_readable(volume.source):
                return [Shown(volume.name, volume.source, "image")]
    return []


def _of_prediction(job: Path) -> list[Shown]:
    request = read_prediction(job)
    found = []
    if request.source is not None:
        found.append(Shown(request.image.name, request.source, "image"))
    kinds: dict[str, Kind] = {"maps": "maps", "instances": "labels"}
    for name, kind in kinds.items():
        if (job / f"{name}.zarr").is_dir():
            found.append(Shown(name, str(job / f"{name}.zarr"), kind))
    return found


def _of_file(path: Path) -> list[Shown]:
    found = []
    for dataset in list_datasets(str(path)):
        source = str(Source(path, dataset, None))
        volume = open_volume(source)
        name = dataset.strip("/") or path.stem
        integers = np.dtype(volume.data.dtype).kind in "iu"
        is_labels = integers and len(volume.data.shape) == 3 and "instances" in name
        is_maps = volume.n_channels == 3 and name in ("maps", "main")
        found.append(
            Shown(
                name, source, "labels" if is_labels else "maps" if is_maps else "image"
            )
        )
    if not found:
        raise DataError(f"{path} holds no volume: no array with three or four axes")
    return found


def _kind(name: str, volume: Volume) -> Kind:
    integers = np.dtype(volume.data.dtype).kind in "iu"
    if integers and len(volume.data.shape) == 3 and "instances" in name:
        return "labels"
    return "maps" if volume.n_channels == 3 and name in ("maps", "main") else "image"


def _kind_of_image(source: str) -> Kind:
    parsed = parse_source(source)
    is_ours = parsed.path.name == PREDICTIONS or parsed.dataset in ("maps", "/maps")
    return "maps" if is_ours and open_volume(source).n_channels == 3 else "image"


def _name(source: str) -> str:
    parsed = parse_source(source)
    return (
        parsed.path.stem
        if parsed.dataset is None
        else f"{parsed.path.stem} {parsed.dataset}"
    )


def _is_readable(source: str) -> bool:
    try:
        open_volume(source)
    except DataError:
        return False
    return bool(source)
