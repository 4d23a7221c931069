"""Settle everything about a training before its first step."""

from napari_volseg.planning.making import AUTO_BATCH, plan_training, with_batch
from napari_volseg.planning.plan import HeldOut, TrainPlan, plan_from_json

__all__ = [
    "AUTO_BATCH",
    "HeldOut",
    "TrainPlan",
    "plan_from_json",
    "plan_training",
    "with_batch",
]
