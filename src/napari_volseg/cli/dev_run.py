"""``--fast-dev-run``: try the whole way with tiny steps, and keep nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_volseg.cli.job import run_in_terminal
from napari_volseg.cli.options import say
from napari_volseg.config import Config, build_config
from napari_volseg.geometry import Box, Size
from napari_volseg.runs import TrainingPair, create_prediction, create_run
from napari_volseg.volume import LabelledVolume, Volume

__all__ = ["run_fast", "sample_pairs"]


def run_fast(config: Config, pairs: Sequence[TrainingPair]) -> int:
    """Take two steps, validate, save, predict a patch; return the exit code."""
    config = _shorten(config)
    size = _doubled(config.data.patch_size)
    cropped = [_crop(pair, size) for pair in pairs]
    with tempfile.TemporaryDirectory(prefix="volseg-dev-run-") as place:
        folder = create_run(config, cropped, Path(place), "dev-run")
        finished, code = run_in_terminal(folder)
        if code or finished.path is None:
            return code or 1
        image = _crop(cropped[0], config.data.patch_size).volume.image
        job = create_prediction(
            folder / finished.path,
            image,
            None,
            folder / "predictions",
            device=config.system.device,
        )
        _, code = run_in_terminal(job)
    if code == 0:
        say("everything works: training, validation, saving and prediction")
    return code


def sample_pairs() -> list[TrainingPair]:
    """Return generated volumes to try with when no data is given."""
    from napari_volseg.sample_data import make_sample

    return [TrainingPair(make_sample(), None, "train")]


def _shorten(config: Config) -> Config:
    tree = config.model_dump(mode="json")
    batch = min(2, config.system.training.patches_per_batch)
    tree["system"]["training"]["batch_size"] = batch
    tree["data"]["iter_num_per_epoch"] = 2 * batch
    tree["optimization"]["accumulate_grad_batches"] = 1
    tree["optimization"]["max_epochs"] = 1
    tree["monitor"]["val_every_epochs"] = 1
    tree["monitor"]["tensorboard"] = False
    if config.automatic.enabled:
        tree["automatic"]["enabled"] = False
        if "data.patch_size" not in config.automatic.kept:
            tree["data"]["patch_size"] = [16, 64, 64]
        if "model.filters" not in config.automatic.kept:
            tree["model"]["filters"] = [16, 32, 64]
    return build_config(tree)


def _doubled(size: Size) -> Size:
    z, y, x = (2 * n for n in size)
    return z, y, x


def _crop(pair: TrainingPair, size: Size) -> TrainingPair:
    """Return a part of the volume that holds annotated objects, in memory."""
    volume = pair.volume
    shape = volume.image.shape_ZYX
    usable = volume.labels_ZYX != 0
    if volume.annotated_ZYX is not None:
        usable &= volume.annotated_ZYX
    found = np.argwhere(usable)
    centre = found[len(found) // 2] if len(found) else np.asarray(shape) // 2
    start = [
        int(min(max(0, c - s // 2), max(0, n - s)))
        for c, s, n in zip(centre, size, shape, strict=True)
    ]
    stop = [min(a + s, n) for a, s, n in zip(start, size, shape, strict=True)]
    box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    image = Volume(
        volume.image.read(box.slices), volume.image.voxel_size, volume.image.name
    )
    annotated = volume.annotated_ZYX
    part = LabelledVolume(
        image,
        volume.labels_ZYX[box.slices],
        None if annotated is None else annotated[box.slices],
    )
    return replace(pair, volume=part, source=None)
