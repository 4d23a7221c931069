"""Portable model files, and the model in a checkpoint."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from napari_volseg.config import Config, build_config
from napari_volseg.errors import DataError
from napari_volseg.geometry import Size
from napari_volseg.intensities import (
    Known,
    intensities_from_json,
    intensities_to_json,
)
from napari_volseg.io import atomic_path
from napari_volseg.io.torch_archive import check_torch_archive
from napari_volseg.models import (
    FORMAT_VERSION,
    METADATA_KEY,
    check_metadata,
    read_model_metadata,
)
from napari_volseg.networks import Pyramid, build_network
from napari_volseg.volume import VoxelSize
from napari_volseg.weights import check_described, fit_weights

__all__ = [
    "Model",
    "load_model",
    "model_metadata",
    "read_state",
    "save_model",
]


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network with all that is needed to use it."""

    network: nn.Module
    config: Config
    """With the thresholds fitted in training."""
    pyramid: Pyramid
    in_channels: int
    voxel_size: VoxelSize
    patch_size: Size
    name: str
    notes: tuple[str, ...] = ()
    """What a user should know of how it was read, one sentence each."""
    intensities: Known = ()
    """What its training images look like, as far as it says."""


def model_metadata(
    config: Config,
    pyramid: Pyramid,
    in_channels: int,
    voxel_size: VoxelSize,
    patch_size: Size,
    step: int,
    scores: Mapping[str, float],
    intensities: Known = (),
) -> dict[str, Any]:
    """Return what a model file says about itself, as plain JSON values."""
    return {
        "format_version": FORMAT_VERSION,
        "name": config.experiment_name,
        "config": config.model_dump(mode="json"),
        "in_channels": in_channels,
        "voxel_size": list(voxel_size),
        "patch_size": list(patch_size),
        "down_factors": [list(f) for f in pyramid.factors],
        "kernel_sizes": [list(k) for k in pyramid.kernels],
        "step": step,
        "scores": dict(scores),
        "intensities": intensities_to_json(intensities),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save_model(
    path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write a portable model file; reading it can run no code."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    data = save_tensors(tensors, {METADATA_KEY: json.dumps(metadata)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load_model(path: Path) -> Model:
    """Load a model from ``model.safetensors`` or from a checkpoint of a run.

    Raises
    ------
    DataError
        If the file is not a model of ours, is damaged, was made by a newer
        version, or its weights do not fit its network or are not finite.
    """
    if path.suffix == ".ckpt":
        check_torch_archive(path)
        state = read_state(_open(path), path)
        if "network" not in state or "metadata" not in state:
            raise DataError(
                f"{path} is not a checkpoint of a volseg run: choose a "
                "model.safetensors or a file in a run's checkpoints folder"
            )
        metadata = check_metadata(state["metadata"], path)
        average = state.get("average")
        weights = (average if isinstance(average, dict) else state).get("network")
    else:
        metadata = read_model_metadata(path)
        try:
            weights = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}") from None
    return _build(metadata, weights, path)


def _build(metadata: Mapping[str, Any], weights: object, path: Path) -> Model:
    try:
        config = build_config(metadata["config"], where=str(path))
        pyramid = Pyramid(
            tuple(_size(f) for f in metadata["down_factors"]),
            tuple(_size(k) for k in metadata["kernel_sizes"]),
            config.model.binning,
        )
        in_channels = int(metadata["in_channels"])
        z, y, x = (float(v) for v in metadata["voxel_size"])
        patch_size = _size(metadata["patch_size"])
        if in_channels < 1:
            raise ValueError(f"{in_channels} channels")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is damaged: what it says of its network is incomplete ({error})"
        ) from None

    def build() -> nn.Module:
        try:
            return build_network(config.model, in_channels, pyramid)
        except (ValueError, TypeError, IndexError, AssertionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path} is damaged: it describes a network that cannot be ({error})"
            ) from None

    check_described(build, weights, path)
    network = build()
    fitted, notes = fit_weights(network.state_dict(), weights, path)
    network.load_state_dict(fitted)
    network.eval()
    return Model(
        network=network,
        config=config,
        pyramid=pyramid,
        in_channels=in_channels,
        voxel_size=(z, y, x),
        patch_size=patch_size,
        name=str(metadata.get("name") or config.experiment_name),
        notes=notes,
        intensities=intensities_from_json(metadata.get("intensities")),
    )


def _size(values: Any) -> Size:
    z, y, x = (int(v) for v in values)
    if min(z, y, x) < 1:
        raise ValueError(f"{[z, y, x]} is no size")
    return z, y, x


def _open(path: Path) -> io.BytesIO:
    if not path.is_file():
        raise DataError(f"there is no file {path}: choose a model or checkpoint")
    try:
        return io.BytesIO(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def read_state(file: io.BytesIO, path: Path) -> dict[str, Any]:
    """Read a checkpoint, without running anything that it may hold.

    Parameters
    ----------
    file
        Its bytes.
    path
        Where they come from, for messages.

    Raises
    ------
    DataError
        If it cannot be read, or holds other things than tensors and plain values.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  # torch raises a dozen kinds here
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path} is damaged or not a checkpoint: {reason}") from None
    if not isinstance(state, dict):
        raise DataError(f"{path} is not a checkpoint of a volseg run")
    return state
