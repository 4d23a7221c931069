"""Find the model that a command means, and the settings to use it with."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from napari_volseg.config import (
    InferenceConfig,
    InstancesConfig,
    apply_overrides,
    build_config,
)
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home
from napari_volseg.models import read_model_info
from napari_volseg.runs import default_runs_dir, is_run, list_runs, read_config

__all__ = [
    "SECTIONS",
    "find_model",
    "find_run",
    "model_of_run",
    "model_settings",
    "run_of",
]

SECTIONS = ("inference", "instances")
"""Sections of the configuration that concern a prediction."""


def find_model(text: str, runs_dir: Path | None = None) -> Path:
    """Return the model file that is meant.

    Parameters
    ----------
    text
        A model file, a checkpoint, a run folder, or the name of a run in the
        folder of runs.
    runs_dir
        That folder, where it is not the usual one.

    Raises
    ------
    DataError
        If there is no such thing, or the run has no model yet.
    """
    runs_dir = expand_home(runs_dir or default_runs_dir())
    for path in (expand_home(text), runs_dir / text):
        if path.is_file():
            return path.absolute()
        if is_run(path):
            return model_of_run(path.absolute())
    raise DataError(
        f"there is no model '{text}': give a model.safetensors, a checkpoint or a "
        "run folder; 'volseg runs' lists yours"
    )


def find_run(text: str, runs_dir: Path | None = None) -> Path:
    """Return the run folder that is meant: a path, or a name in the folder of runs.

    Raises
    ------
    DataError
        If there is no such run; it names the nearest.
    """
    runs_dir = expand_home(runs_dir or default_runs_dir())
    for path in (expand_home(text), runs_dir / text):
        if is_run(path):
            return path.absolute()
    names = [run.name for run in list_runs(runs_dir)]
    near = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "'volseg runs' lists yours"
    raise DataError(f"there is no run '{text}': {hint}")


def model_of_run(folder: Path) -> Path:
    """Return the best model that a run has: its model file, else a checkpoint.

    Raises
    ------
    DataError
        If it has none yet.
    """
    names = ("model.safetensors", "checkpoints/best.ckpt", "checkpoints/last.ckpt")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"the run {folder} has no model yet: train it further with 'volseg train "
        f"{folder} --resume'"
    )


def run_of(model: Path) -> Path | None:
    """Return the run folder that a model or checkpoint lies in."""
    folder = model.parent.parent if model.suffix == ".ckpt" else model.parent
    return folder if is_run(folder) else None


def model_settings(
    model: Path, settings: Sequence[str]
) -> tuple[InferenceConfig, InstancesConfig]:
    """Return the model's settings with those of the command line on top.

    Raises
    ------
    DataError
        For a setting that does not concern a prediction, or a model that cannot
        be read.
    """
    for setting in settings:
        if setting.split(".")[0] not in SECTIONS:
            raise DataError(
                f"'{setting}' does not concern a prediction: settings begin with "
                "inference. or instances."
            )
    inference, instances = _stored_settings(model)
    tree = {
        "inference": inference.model_dump(mode="json"),
        "instances": instances.model_dump(mode="json"),
    }
    merged = build_config(apply_overrides(tree, settings), where="the command line")
    return merged.inference, merged.instances


def _stored_settings(model: Path) -> tuple[InferenceConfig, InstancesConfig]:
    """Return the settings of a model; a checkpoint has those of its run's model."""
    folder = run_of(model)
    finished = None if folder is None else folder / "model.safetensors"
    if finished is not None and finished.is_file():
        info = read_model_info(finished)
    elif model.suffix != ".ckpt":
        info = read_model_info(model)
    elif folder is None:
        raise DataError(
            f"the checkpoint {model} is not in a run folder: use the "
            "model.safetensors that its run wrote"
        )
    else:
        config = read_config(folder)
        return config.inference, config.instances
    return info.inference, info.instances
