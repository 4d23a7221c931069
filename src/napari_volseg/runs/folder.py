"""The run folder of a training: its configuration and a snapshot of its data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from napari_volseg.config import (
    Config,
    apply_overrides,
    build_config,
    dump_config,
    parse_tree,
    read_text,
)
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.io import (
    Source,
    open_volume,
    write_hdf5,
    write_json,
    write_text,
)
from napari_volseg.runs.annotations import read_annotated
from napari_volseg.runs.naming import new_folder
from napari_volseg.runs.ownership import in_use_message, is_locked
from napari_volseg.runs.pairs import TrainingPair
from napari_volseg.runs.relocation import describe_source, relocate_image
from napari_volseg.volume import LabelledVolume, Volume, reading

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "MODEL",
    "PAIRS",
    "amend_run",
    "create_run",
    "has_checkpoint",
    "is_run",
    "read_config",
    "read_run",
    "settle_config",
]

CONFIG = "config.yaml"
PAIRS = "data/pairs.json"
MODEL = "model.safetensors"
CHECKPOINTS = "checkpoints"

_FORMAT = 1
_AMENDABLE = ("optimization", "monitor", "system", "inference", "instances")


def create_run(
    config: Config,
    pairs: Sequence[TrainingPair],
    runs_dir: Path,
    name: str | None = None,
) -> Path:
    """Make a new run folder with all that a training needs.

    Labels and annotated masks are copied, images only when they live in
    memory, so that neither painting nor closing napari changes the run.

    Parameters
    ----------
    config
        The whole configuration.
    pairs
        What to learn from; read, never written.
    runs_dir
        Folder of runs; made when it is not there.
    name
        Name of the run, by default ``config.experiment_name``; a number is
        added when it is taken.

    Returns
    -------
    Path
        The folder, readable for this user only.

    Raises
    ------
    DataError
        If there are no training pairs or the folder cannot be written.
    """
    if not any(pair.role == "train" for pair in pairs):
        raise DataError("there is nothing to train on: add an image with labels")
    folder = new_folder(Path(runs_dir).absolute(), name or config.experiment_name)
    try:
        (folder / "data").mkdir(mode=0o700)
        entries = [_snapshot(pair, folder, i) for i, pair in enumerate(pairs)]
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(
            folder / PAIRS, {"format": _FORMAT, "created": created, "pairs": entries}
        )
        # Last, because a folder with a configuration is a run.
        write_text(folder / CONFIG, dump_config(config))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise DataError(
                f"cannot write the run folder {folder}: {error.strerror or error}"
            ) from error
        raise
    return folder


def read_run(folder: Path) -> tuple[Config, list[TrainingPair]]:
    """Return the configuration of a run and the data it was given.

    Raises
    ------
    DataError
        If the folder is no run, a file of it is damaged, or an image is not
        where it was or has changed since the run was made.
    """
    folder = Path(folder).absolute()
    if not is_run(folder):
        raise DataError(
            f"{folder} is not a run folder: it has no {CONFIG}; see 'volseg runs'"
        )
    config = read_config(folder)
    try:
        table = json.loads((folder / PAIRS).read_text("utf-8"))
        if table["format"] > _FORMAT:
            raise DataError(
                f"{folder} was made by a newer version of napari-volseg: update it"
            )
        return config, [_restore(entry, folder) for entry in table["pairs"]]
    except OSError as error:
        raise DataError(
            f"the run folder {folder} is incomplete: {error.strerror}: {PAIRS}"
        ) from None
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / PAIRS} is damaged ({error}): start anew") from None


def read_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a run, with settings changed.

    Raises
    ------
    DataError
        If it cannot be read, or a setting is unknown or out of bounds.
    """
    path = folder / CONFIG
    tree = parse_tree(read_text(path), str(path))
    return build_config(apply_overrides(tree, overrides), where=str(path))


def is_run(folder: Path) -> bool:
    """Return whether a folder is the run folder of a training."""
    return (folder / CONFIG).is_file()


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run has a checkpoint to resume from."""
    return any((folder / CHECKPOINTS).glob("*.ckpt"))


def _snapshot(pair: TrainingPair, folder: Path, index: int) -> dict[str, Any]:
    volume, image = pair.volume, pair.volume.image
    file = f"data/{index:03d}.h5"
    arrays: dict[str, Any] = {"labels": volume.labels_ZYX}
    if volume.annotated_ZYX is not None:
        arrays["annotated"] = volume.annotated_ZYX.view(np.uint8)
    if pair.source is None:
        arrays["image"] = image.data
    with reading(image.name):
        write_hdf5(folder / file, arrays, image.voxel_size)
    corrected = [[*box.start, *box.stop] for box in pair.corrected]
    located = {} if pair.source is None else describe_source(pair.source, folder)
    return {
        "role": pair.role,
        "name": image.name,
        "labels_name": pair.labels_name,
        "file": file,
        "voxel_size": list(image.voxel_size),
        "annotated": volume.annotated_ZYX is not None,
        **({"corrected": corrected} if corrected else {}),
        **located,
    }


def _restore(entry: dict[str, Any], folder: Path) -> TrainingPair:
    file = folder / "data" / Path(entry["file"]).name
    if "source" in entry:
        source: str | None = relocate_image(entry, folder, what="run")
        text = source or ""
    else:
        source, text = None, str(Source(file, "image", None))
    z, y, x = (float(v) for v in entry["voxel_size"])
    opened = open_volume(text, voxel_size=(z, y, x))
    image = Volume(opened.data, (z, y, x), str(entry["name"]))
    labels_ZYX, annotated_ZYX = read_annotated(
        str(Source(file, "labels", None)),
        str(Source(file, "annotated", None)) if entry["annotated"] else None,
        folder=file.parent,
    )
    if entry["role"] not in ("train", "val"):
        raise ValueError(f"unknown role {entry['role']!r}")
    return TrainingPair(
        LabelledVolume(image, labels_ZYX, annotated_ZYX),
        source,
        entry["role"],
        str(entry.get("labels_name", "")),
        tuple(
            Box((int(z0), int(y0), int(x0)), (int(z1), int(y1), int(x1)))
            for z0, y0, x0, z1, y1, x1 in entry.get("corrected", ())
        ),
    )


def amend_run(folder: Path, overrides: Sequence[str]) -> Config:
    """Change settings of a run that is to be resumed, for instance its budget.

    Parameters
    ----------
    folder
        The run folder.
    overrides
        Dotted settings; only those that the weights do not depend on.

    Raises
    ------
    DataError
        For a setting that cannot change once training has begun, or a folder in
        use.
    """
    config = read_config(folder, overrides)
    for override in overrides:
        if override.split(".")[0] not in _AMENDABLE:
            raise DataError(
                f"'{override}' cannot change in a run that has begun, only settings in "
                f"{', '.join(_AMENDABLE)}: start a new run for it"
            )
    _refuse_other_optimizer(folder, config)
    if overrides:
        if is_locked(folder):
            raise DataError(in_use_message(folder))
        write_text(folder / CONFIG, dump_config(config))
    return config


def _refuse_other_optimizer(folder: Path, config: Config) -> None:
    """Refuse what the training could not go on with, before anything is written."""
    before = read_config(folder).optimization.optimizer.name
    if has_checkpoint(folder) and config.optimization.optimizer.name != before:
        raise DataError(
            "optimization.optimizer.name cannot change in a run that has begun, "
            f"because its checkpoints are those of {before}: leave it out, or start a "
            "new run"
        )


def settle_config(folder: Path, config: Config) -> None:
    """Store the configuration that an automatic run turned out to have."""
    write_text(folder / CONFIG, dump_config(config))
