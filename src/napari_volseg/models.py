"""What a model file says of itself, read without torch.

A model is a safetensors file: eight bytes with the length of a JSON header,
the header, then raw numbers. The header's ``__metadata__`` holds one JSON text
under `METADATA_KEY`; reading it runs no code and loads no weights.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_volseg.config import InferenceConfig, InstancesConfig, build_config
from napari_volseg.errors import DataError
from napari_volseg.intensities import Known, intensities_from_json
from napari_volseg.io import kind_of_file
from napari_volseg.volume import VoxelSize

__all__ = [
    "FORMAT_VERSION",
    "METADATA_KEY",
    "ModelInfo",
    "check_metadata",
    "count_weights",
    "read_model_info",
    "read_model_metadata",
]

METADATA_KEY = "napari_volseg"
"""Key of the one metadata entry, whose value is a JSON object as text."""

FORMAT_VERSION = 1
"""Written as ``format_version``; a higher number is refused."""

_MAX_HEADER_BYTES = 8 * 2**20
_MAX_TENSORS = 20_000


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What there is to know of a model before it is loaded."""

    path: Path
    name: str
    """Name of the run it comes from."""
    voxel_size: VoxelSize
    """Edge lengths (z, y, x) in nm of the voxels it was trained on."""
    in_channels: int
    score: float | None
    """``f1_50`` on held-out voxels; None when there was no validation."""
    instances: InstancesConfig
    """Thresholds fitted on held-out voxels, else those of its configuration."""
    inference: InferenceConfig
    created: str
    """When it was written: ISO 8601 with time zone, or empty."""
    architecture: str
    scores: Mapping[str, float]
    """All metrics of the held-out voxels, see `metrics.evaluate`."""
    percentiles: tuple[float, float] = (0.05, 0.95)
    """Quantiles of the intensity that are mapped to 0 and 1."""
    intensities: Known = ()
    """What its training images look like; empty in models of earlier versions."""


def read_model_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of a model file.

    Parameters
    ----------
    path
        A ``model.safetensors`` written by a training.

    Returns
    -------
    dict
        ``format_version``, ``name``, ``created``, ``config`` (nested, with fitted
        thresholds), ``voxel_size``, ``in_channels``, ``scores``, and more;
        ``intensities`` of the training images where the version that wrote it knew
        them.

    Raises
    ------
    DataError
        If the file cannot be read, is no model of ours, is cut off or
        malformed, or was written by a newer version.
    """
    path = Path(path)
    header, data_bytes = _read_header(path)
    texts = header.pop("__metadata__", {})
    if len(header) > _MAX_TENSORS:
        raise DataError(f"{path} lists {len(header)} arrays: it is no model of ours")
    _check_complete(path, header, data_bytes)
    text = texts.get(METADATA_KEY) if isinstance(texts, dict) else None
    if not isinstance(text, str):
        raise DataError(
            f"{path} was not made by napari-volseg: it has weights but does not say "
            "how to use them; choose the model.safetensors of a run folder"
        )
    return check_metadata(_parse_object(text, path), path)


def check_metadata(metadata: object, path: Path) -> dict[str, Any]:
    """Return what a model says of itself, if this version can read it.

    Raises
    ------
    DataError
        If it is no mapping, or was written by a newer version.
    """
    if not isinstance(metadata, dict):
        raise DataError(f"{path} is damaged: it does not say how to use its weights")
    version = metadata.get("format_version")
    if not isinstance(version, int):
        raise DataError(f"{path} does not say its format version: the file is damaged")
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path} was made by a newer version of napari-volseg (model format "
            f"{version}, this version reads up to {FORMAT_VERSION}): update "
            "napari-volseg"
        )
    return metadata


def read_model_info(path: str | Path) -> ModelInfo:
    """Return what a model file says of itself.

    Raises
    ------
    DataError
        As `read_model_metadata`, and for settings that this version does not know.
    """
    path = Path(path)
    metadata = read_model_metadata(path)
    where = f"the configuration in {path}"
    config = build_config(_mapping(metadata, "config", path), where=where)
    scores = {
        str(key): float(value)
        for key, value in _mapping(metadata, "scores", path).items()
        if isinstance(value, int | float)
    }
    return ModelInfo(
        path=path,
        name=str(metadata.get("name") or config.experiment_name),
        voxel_size=_voxel_size(metadata, path),
        in_channels=_in_channels(metadata, path),
        score=scores.get("f1_50"),
        instances=config.instances,
        inference=config.inference,
        created=str(metadata.get("created", "")),
        architecture=config.model.architecture,
        scores=scores,
        percentiles=config.data.percentiles,
        intensities=intensities_from_json(metadata.get("intensities")),
    )


def count_weights(path: Path) -> int:
    """Return how many numbers a model file holds.

    Raises
    ------
    DataError
        If the file cannot be read or is malformed.
    """
    header, _ = _read_header(path)
    header.pop("__metadata__", None)
    try:
        return sum(math.prod(tensor["shape"]) for tensor in header.values())
    except (TypeError, KeyError):
        raise DataError(f"the model {path} is damaged: it lists no arrays") from None


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        if not path.is_file():
            what = "not a file" if path.exists() else "not there"
            what = "a folder" if path.is_dir() else what
            raise DataError(f"the model {path} is {what}: choose a model.safetensors")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if len(prefix) < 8:
                raise DataError(f"the model {path} is incomplete: it has {size} bytes")
            (length,) = struct.unpack("<Q", prefix)
            _check_header_length(path, prefix + file.read(24), length, size)
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise DataError(f"cannot read the model {path}: {error.strerror}") from None
    return _parse_object(text, path), size - 8 - length


def _check_header_length(path: Path, start: bytes, length: int, size: int) -> None:
    if length > _MAX_HEADER_BYTES:
        if start[8:9] == b"{" and 8 + length <= size:
            raise DataError(f"{path} lists far too many arrays: it is no model of ours")
        kind = kind_of_file(start) or "not a safetensors file"
        raise DataError(
            f"{path} is {kind}: choose the model.safetensors of a run folder"
        )
    if 8 + length > size:
        raise DataError(
            f"the model {path} is incomplete: its header of {length} bytes is cut "
            f"off at {size} bytes; copy it again"
        )


def _parse_object(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataError(f"the model {path} is damaged: its header is not valid JSON")
    return value


def _check_complete(path: Path, tensors: Mapping[str, Any], data_bytes: int) -> None:
    """Refuse a file whose numbers are cut off; the loader checks the rest."""
    try:
        end = max((int(t["data_offsets"][1]) for t in tensors.values()), default=0)
    except (TypeError, KeyError, IndexError, ValueError):
        raise DataError(
            f"the model {path} is damaged: its header lists malformed arrays"
        ) from None
    if end != data_bytes:
        raise DataError(
            f"the model {path} is incomplete: it has {data_bytes} of {end} bytes of "
            "weights; copy it again"
        )


def _mapping(metadata: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = metadata.get(key)
    if not isinstance(value, dict):
        raise DataError(f"the model {path} is damaged: '{key}' is not a mapping")
    return value


def _voxel_size(metadata: Mapping[str, Any], path: Path) -> VoxelSize:
    try:
        z, y, x = (float(v) for v in metadata["voxel_size"])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"the model {path} is damaged: it does not say its voxel size"
        ) from None
    return z, y, x


def _in_channels(metadata: Mapping[str, Any], path: Path) -> int:
    value = metadata.get("in_channels")
    if not isinstance(value, int) or value < 1:
        raise DataError(
            f"the model {path} is damaged: it does not say its number of channels"
        )
    return value
