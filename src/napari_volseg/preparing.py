"""Make ready what a training draws its patches from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_volseg.planning import TrainPlan
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import PatchSource, prepare_volume

__all__ = ["prepare_patches"]


def prepare_patches(
    plan: TrainPlan, pairs: Sequence[TrainingPair], folder: Path
) -> PatchSource:
    """Read the training volumes and compute their targets.

    Parameters
    ----------
    plan, pairs
        The training, and all its volumes.
    folder
        Where arrays go that memory does not hold.
    """
    prepared = [
        prepare_volume(
            pair.volume,
            [h.box for h in plan.held_out if h.pair == index],
            plan.guard,
            plan.config,
            plan.patch_size,
            plan.boundary,
            plan.distance,
            plan.cache,
            folder,
        )
        for index, pair in enumerate(pairs)
        if pair.role == "train"
    ]
    return PatchSource(prepared, plan.config, plan.patch_size)
