"""Go back to a good state when steps stop being finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from napari_volseg.checkpoint_folder import iter_checkpoints
from napari_volseg.errors import DataError
from napari_volseg.learner import Learner
from napari_volseg.planning import TrainPlan
from napari_volseg.record import Record

__all__ = ["MAX_RESCUES", "plan_after", "refuse_third", "rescue", "rescue_message"]

MAX_RESCUES = 2
_CLIP = 0.3


def plan_after(plan: TrainPlan, rescues: int) -> TrainPlan:
    """Return the plan to go on with: the second rescue gives up short numbers."""
    if rescues < MAX_RESCUES or plan.compute.precision == "32":
        return plan
    compute = replace(plan.compute, precision="32", channels_last=False)
    return replace(plan, compute=compute)


def rescue(plan: TrainPlan, failed: Learner, folder: Path) -> Learner:
    """Return a learner at the last good checkpoint, with half the learning rate.

    The second time an older checkpoint is taken where there is one: the newest may
    hold the seed of the trouble. Without any checkpoint training begins anew.

    Parameters
    ----------
    plan
        From `plan_after`, for the rescue to come.
    failed
        The learner that cannot go on. It gives up its network.
    folder
        The ``checkpoints`` folder of the run.
    """
    old, rate = failed.record, failed.schedule.rescue
    del failed.network, failed.updater  # before memory is needed anew
    state = _last_good(folder, old.rescued_step if old.rescues else None)
    learner = Learner(plan, failed.group, begin=state is None)
    if state is not None:
        learner.load(state)
    learner.schedule.rescue = rate / 2
    learner.intensities = failed.intensities
    record = learner.record
    record.rescues, record.rescued_step = old.rescues + 1, record.step
    record.skipped_in_row, record.n_skipped = 0, old.n_skipped
    record.parts_per_batch = max(record.parts_per_batch, old.parts_per_batch)
    # New labels stay, and go with no weights.
    record.revision, record.revised_step = old.revision, old.revised_step
    record.changed = old.changed
    # The time is spent, and the model file on disk is still the best one.
    record.elapsed = old.elapsed
    record.best_score, record.best_metrics = old.best_score, old.best_metrics
    return learner


def rescue_message(plan: TrainPlan, learner: Learner) -> str:
    """Return what the user should know of a rescue that has just been made."""
    step = learner.record.step
    where = f"the checkpoint of step {step}" if step else "the beginning"
    message = (
        "The loss or its gradient was not finite any more: training went back to "
        f"{where} and goes on with half the learning rate, {learner.lr:.2g}"
    )
    if learner.record.rescues == MAX_RESCUES:
        return f"{message}, in 32-bit numbers. Next time it stops."
    return f"{message}. Should it happen again, {_advice(plan)}."


def refuse_third(plan: TrainPlan, record: Record) -> None:
    """Raise when a training was rescued as often as may be."""
    if record.rescues >= MAX_RESCUES:
        raise DataError(
            "the loss or its gradient is still not finite, after two returns to an "
            "earlier checkpoint with half the learning rate each and 32-bit numbers in "
            f"the end: start anew with {_advice(plan)}, and look for extreme values in "
            "the images"
        )


def _advice(plan: TrainPlan) -> str:
    optimization = plan.config.optimization
    lower = optimization.optimizer.lr / 4
    clip = optimization.gradient_clip_val
    tighter = _CLIP if clip == 0 or clip > _CLIP else clip / 2
    return (
        f"optimization.gradient_clip_val={tighter:g} and "
        f"optimization.optimizer.lr={lower:g}"
    )


def _last_good(folder: Path, before: int | None) -> dict[str, Any] | None:
    """Return the newest state whose weights are finite, of before a step if any."""
    newest = None
    for state in iter_checkpoints(folder):
        if not _is_finite(state["network"]):
            continue
        if before is None or state["record"]["step"] < before:
            return state
        newest = newest or state
    return newest


def _is_finite(weights: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(w).all()) for w in weights.values())
