"""The job folder of a prediction: which model, which image, which settings."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InferenceConfig, InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.io import (
    Source,
    expand_home,
    open_labels,
    open_volume,
    write_hdf5,
    write_json,
)
from napari_volseg.runs.naming import new_folder
from napari_volseg.runs.relocation import describe_source, relocate_image
from napari_volseg.volume import ArrayLike, Volume, reading

__all__ = [
    "INPUT",
    "REQUEST",
    "PredictionRequest",
    "create_prediction",
    "is_prediction",
    "read_prediction",
]

REQUEST = "request.json"
INPUT = "input.h5"

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """All that a prediction needs."""

    model: Path
    image: Volume
    source: str | None
    """Where the image lives when that is a file."""
    inference: InferenceConfig | None
    """None takes the model's settings."""
    instances: InstancesConfig | None
    """None takes the thresholds stored with the model."""
    mask_ZYX: ArrayLike | None
    """Non-zero where to predict, read lazily; None means everywhere."""
    device: str


def create_prediction(
    model_path: Path,
    image: Volume,
    source: str | None,
    folder: Path,
    *,
    inference: InferenceConfig | None = None,
    instances: InstancesConfig | None = None,
    mask: NDArray[Any] | None = None,
    device: str = "auto",
) -> Path:
    """Make a job folder for one prediction.

    Parameters
    ----------
    model_path
        A ``model.safetensors``, or a checkpoint of a run.
    image
        The volume; copied when it lives in memory.
    source
        Where the image lives when that is a file, else None.
    folder
        Folder in which the job folder is made, usually ``<run>/predictions``.
    inference, instances
        Settings in place of those stored with the model.
    mask
        Non-zero where to predict, axes ZYX.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Returns
    -------
    Path
        The new job folder, named after the image.

    Raises
    ------
    DataError
        If the model is not there, the mask does not fit or the folder cannot be
        written.
    """
    model_path = expand_home(model_path).absolute()
    if not model_path.is_file():
        raise DataError(f"the model {model_path} is not there: train one, or choose it")
    if mask is not None and mask.shape != image.shape_ZYX:
        raise DataError(
            f"the mask has the shape {mask.shape} but {image.name} has "
            f"{image.shape_ZYX}: they must cover the same voxels"
        )
    job = new_folder(Path(folder).absolute(), _job_name(image.name))
    arrays: dict[str, Any] = {}
    if source is None:
        arrays["image"] = image.data
    if mask is not None:
        arrays["mask"] = (np.asarray(mask) != 0).astype(np.uint8)
    try:
        if arrays:
            with reading(image.name):
                write_hdf5(job / INPUT, arrays, image.voxel_size)
        request = {
            "format": _FORMAT,
            "model": str(model_path),
            "name": image.name,
            "voxel_size": list(image.voxel_size),
            "inference": inference and inference.model_dump(mode="json"),
            "instances": instances and instances.model_dump(mode="json"),
            "mask": mask is not None,
            "device": device,
            **({} if source is None else describe_source(source, job)),
        }
        write_json(job / REQUEST, request)
    except BaseException as error:
        shutil.rmtree(job, ignore_errors=True)
        if isinstance(error, OSError):
            raise DataError(f"cannot write {job}: {error.strerror}") from error
        raise
    return job


def is_prediction(folder: Path) -> bool:
    """Return whether a folder is the job folder of a prediction."""
    return (folder / REQUEST).is_file()


def read_prediction(folder: Path) -> PredictionRequest:
    """Return what a prediction job was asked for.

    Raises
    ------
    DataError
        If the request is damaged, or model or image are gone or have changed.
    """
    folder = Path(folder).absolute()
    try:
        fields = json.loads((folder / REQUEST).read_text("utf-8"))
        if fields["format"] > _FORMAT:
            raise DataError(
                f"{folder} was made by a newer version of napari-volseg: update it"
            )
        return _restore(fields, folder)
    except OSError as error:
        raise DataError(
            f"{folder} is no prediction: cannot read {REQUEST}: {error.strerror}"
        ) from None
    except DataError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / REQUEST} is damaged ({error})") from None


def _restore(fields: dict[str, Any], folder: Path) -> PredictionRequest:
    source: str | None = None
    text = str(Source(folder / INPUT, "image", None))
    if "source" in fields:
        source = text = relocate_image(fields, folder, what="prediction")
    z, y, x = (float(v) for v in fields["voxel_size"])
    opened = open_volume(text, voxel_size=(z, y, x))
    inference, instances = fields["inference"], fields["instances"]
    return PredictionRequest(
        model=Path(fields["model"]),
        image=Volume(opened.data, (z, y, x), str(fields["name"])),
        source=source,
        inference=inference and InferenceConfig.model_validate(inference),
        instances=instances and InstancesConfig.model_validate(instances),
        mask_ZYX=open_labels(str(Source(folder / INPUT, "mask", None)))
        if fields["mask"]
        else None,
        device=str(fields["device"]),
    )


def _job_name(image_name: str) -> str:
    """Return the part of a layer or file name that tells volumes apart."""
    return Path(image_name.replace(":", "-").replace("\\", "/")).name or "volume"
