"""The results of a test: predictions, segmentation and scores, in one folder.

``predictions.h5`` and ``segmentation.h5`` each hold one dataset, ``main``, as
PyTorch Connectomics writes them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from napari_volseg.errors import DataError
from napari_volseg.io import open_volume, write_hdf5, write_json, writing
from napari_volseg.runs import safe_name

__all__ = [
    "LOG",
    "PREDICTIONS",
    "RESULTS",
    "SEGMENTATION",
    "TestScores",
    "VolumeScores",
    "append_log",
    "read_scores",
    "result_files",
    "result_folders",
    "write_result_files",
    "write_scores",
]

RESULTS = "results"
LOG = "test_results.log"
PREDICTIONS = "predictions.h5"
SEGMENTATION = "segmentation.h5"
DATASET = "main"

_SCORES = "scores.json"
_TABLE = "instances.csv"


@dataclass(frozen=True, slots=True)
class VolumeScores:
    """What was found in one volume, and how well."""

    name: str
    folder: str
    """Where its files are, relative to the results; ``.`` for a single volume."""
    n_instances: int
    metrics: Mapping[str, float]
    """See `napari_volseg.metrics.evaluate`; empty where there was no truth."""
    source: str = ""
    """Where the image is; empty when it was in memory."""


@dataclass(frozen=True, slots=True)
class TestScores:
    """The scores of one model on all test volumes."""

    __test__ = False

    model: str
    created: str
    """ISO 8601 with time zone."""
    volumes: tuple[VolumeScores, ...]

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each metric over the volumes that were scored."""
        scored = [volume.metrics for volume in self.volumes if volume.metrics]
        return (
            {key: fmean(m[key] for m in scored) for key in scored[0]} if scored else {}
        )


def result_folders(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return where the results of each volume go: folders below for several."""
    if len(names) == 1:
        return [folder]
    taken: list[Path] = []
    for name in names:
        stem = safe_name(Path(name.replace(":", "-")).name)
        place, n = folder / stem, 2
        while place in taken:
            place, n = folder / f"{stem}-{n}", n + 1
        taken.append(place)
    return taken


def result_files(folder: Path) -> list[Path]:
    """Return what `write_result_files` replaces in a folder."""
    return [folder / name for name in (PREDICTIONS, SEGMENTATION, _TABLE)]


def write_result_files(folder: Path, job: Path) -> None:
    """Turn the job folder of a finished prediction into files for other programs.

    Parameters
    ----------
    folder
        Made when it is not there; files in it are replaced.
    job
        Holds ``maps.zarr`` (C, Z, Y, X), ``instances.zarr`` (Z, Y, X) and
        ``instances.csv``; on the disk of the folder.

    Raises
    ------
    DataError
        If a file cannot be written.
    """
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, file in (("maps", PREDICTIONS), ("instances", SEGMENTATION)):
        volume = open_volume(str(job / f"{name}.zarr"))
        arrays = {DATASET: volume.data}
        write_hdf5(folder / file, arrays, volume.voxel_size, folder=job)
    if (job / _TABLE).is_file():
        with writing(folder / _TABLE):
            shutil.copyfile(job / _TABLE, folder / _TABLE)


def write_scores(
    folder: Path, model: Path, volumes: Sequence[VolumeScores]
) -> TestScores:
    """Write the scores of a test into its results folder, and return them."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    scores = TestScores(str(model), created, tuple(volumes))
    write_json(folder / _SCORES, asdict(scores) | {"mean": scores.mean})
    return scores


def read_scores(folder: Path) -> TestScores | None:
    """Return the scores in a results folder; None without, or when damaged."""
    try:
        fields = json.loads((folder / _SCORES).read_text("utf-8"))
        volumes = tuple(
            VolumeScores(
                name=str(v["name"]),
                folder=str(v["folder"]),
                n_instances=int(v["n_instances"]),
                metrics={str(k): float(x) for k, x in v["metrics"].items()},
                source=str(v.get("source", "")),
            )
            for v in fields["volumes"]
        )
        return TestScores(str(fields["model"]), str(fields["created"]), volumes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def append_log(path: Path, scores: TestScores) -> None:
    """Add the scores to a log for reading and ``grep``, one metric a line.

    Raises
    ------
    DataError
        If the log cannot be written.
    """
    lines = [f"# {scores.created} volseg test, model {scores.model}"]
    for volume in scores.volumes:
        lines.append(f"{volume.name} n_instances {volume.n_instances}")
        lines += [f"{volume.name} {k} {v:.6g}" for k, v in volume.metrics.items()]
    if len(scores.volumes) > 1:
        lines += [f"mean {key} {value:.6g}" for key, value in scores.mean.items()]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None
