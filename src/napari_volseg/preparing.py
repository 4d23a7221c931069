"""Make ready what a training draws its patches from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_volseg.planning import TrainPlan
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import PatchSource, prepare_volume
from napari_volseg.splitting import annotated_box

__all__ = ["prepare_patches"]


def prepare_patches(
    plan: TrainPlan, pairs: Sequence[TrainingPair], folder: Path
) -> PatchSource:
    """Read the training volumes and compute their targets.

    A volume that is held out as a whole is not read.

    Parameters
    ----------
    plan, pairs
        The training, and all its volumes.
    folder
        Where arrays go that memory does not hold.

    Raises
    ------
    DataError
        If an image has NaN, nothing is left to learn from, or the disk is full.
    """
    prepared = []
    for index, pair in enumerate(pairs):
        held_out = [h.box for h in plan.held_out if h.pair == index]
        if pair.role != "train" or annotated_box(pair.volume) in held_out:
            continue
        prepared.append(
            prepare_volume(
                pair.volume,
                held_out,
                plan.guard,
                plan.config,
                plan.patch_size,
                plan.boundary,
                plan.distance,
                plan.cache,
                folder,
            )
        )
    return PatchSource(prepared, plan.config, plan.patch_size)
