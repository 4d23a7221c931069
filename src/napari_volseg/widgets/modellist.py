"""The models that there are to choose from, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from napari.layers import Image

from napari_volseg.errors import DataError
from napari_volseg.models import ModelInfo, read_model_info
from napari_volseg.runs import list_runs
from napari_volseg.runs.folder import MODEL
from napari_volseg.widgets.layers import voxel_size, voxel_words
from napari_volseg.widgets.preferences import runs_dir

__all__ = ["MATCH", "find_models", "fit_words", "model_identity", "model_words"]

MATCH = "Match voxel size"
"""What the setting is called in the dock."""

_MAX_MODELS = 30


def find_models() -> list[ModelInfo]:
    """Return the models in the folder of runs, newest first, without damaged ones."""
    runs = [run for run in list_runs(runs_dir()) if run.has_model]
    paths = [run.folder / MODEL for run in runs]
    paths.sort(key=_written, reverse=True)
    models = []
    for path in paths[:_MAX_MODELS]:
        try:
            models.append(read_model_info(path))
        except DataError:
            continue  # it cannot be used, and choosing it by hand says why
    return models


def model_words(model: ModelInfo, now: datetime | None = None) -> str:
    """Return a model as name · score · age."""
    score = "no score" if model.score is None else f"F1 {model.score:.2f}"
    return f"{model.name} · {score} · {_age(model.created, now or datetime.now(UTC))}"


def _age(created: str, now: datetime) -> str:
    try:
        minutes = (now - datetime.fromisoformat(created)).total_seconds() / 60
    except (ValueError, TypeError):
        return "age unknown"
    if minutes < 2:
        return "just now"
    if minutes < 90:
        return f"{minutes:.0f} min ago"
    if minutes < 36 * 60:
        return f"{minutes / 60:.0f} h ago"
    return f"{minutes / 1440:.0f} days ago"


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def model_identity(model: ModelInfo) -> tuple[Path, str, float | None]:
    """Return what tells a model from another, also when a file was replaced."""
    return model.path, model.created, model.score


def fit_words(layer: Image, model: ModelInfo, *, is_matched: bool = False) -> str:
    """Say how the voxels of an image compare with those that a model learnt from.

    Parameters
    ----------
    is_matched
        Whether ``inference.match_voxel_size`` is set.
    """
    size = f"Voxel {voxel_words(layer)}"
    ratio = np.array(voxel_size(layer)) / np.array(model.voxel_size)
    if np.allclose(ratio, 1, rtol=0.05):
        return f"{size}, as the model"
    trained = " × ".join(f"{edge:g}" for edge in model.voxel_size)
    if is_matched:
        return f"{size}, resampled to the {trained} nm of the model on the way in"
    if np.allclose(ratio, ratio[0], rtol=0.05):
        return (
            f"{size}; the model was trained on {trained} nm: objects look "
            f"{1 / ratio[0]:.2g} times their size to it unless you tick “{MATCH}”"
        )
    return f"{size}; the model was trained on {trained} nm: tick “{MATCH}”"
