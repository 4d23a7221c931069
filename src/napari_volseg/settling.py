"""Settle what only a trial on this machine can tell: number format and batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from napari_volseg.batching import fit_batch
from napari_volseg.config import Config
from napari_volseg.planning import TrainPlan
from napari_volseg.probing import trusted_compute

__all__ = ["batch_asked", "keep_step", "settle"]


def settle(plan: TrainPlan) -> TrainPlan:
    """Return the plan as this machine can carry it out; settled ones stay.

    Trials run in throw-away processes, so a crash or a lack of memory there costs
    nothing. What was given up is among the plan's notices.

    Raises
    ------
    DataError
        If not even one patch at a time fits into memory.
    """
    if plan.is_settled:
        return plan
    compute, given_up = trusted_compute(plan)
    plan = replace(plan, compute=compute)
    made_smaller = None
    if plan.batch_is_auto:
        plan, made_smaller = fit_batch(plan)
    news = tuple(filter(None, (given_up, made_smaller, _norm_notice(plan))))
    return replace(plan, notices=plan.notices + news, is_settled=True)


def batch_asked(config: Config) -> dict[str, Any]:
    """Return the settings that say how many patches a process sees in a step."""
    return {
        "batch_size": config.system.training.batch_size,
        "accumulate_grad_batches": config.optimization.accumulate_grad_batches,
    }


def keep_step(plan: TrainPlan, config: Config, before: Mapping[str, Any]) -> TrainPlan:
    """Let a step see as many patches as before, on another number of processes.

    Parameters
    ----------
    plan
        Of the session to come, settled.
    config
        What it was made from.
    before
        The contents of the last session's ``plan.json``. Where the user has
        changed the batch since, or nothing is known, the plan stays as it is.
    """
    patches = before.get("patches_per_step")
    asked = before.get("batch_asked")
    size = plan.config.system.training.patches_per_batch
    if patches == plan.patches_per_step or asked != batch_asked(config):
        return plan
    if patches is None or patches % size:
        return plan
    steps = ceil(plan.config.data.iter_num_per_epoch / patches)
    return replace(plan, micro_batches=patches // size, steps_per_epoch=steps)


def _norm_notice(plan: TrainPlan) -> str | None:
    if (
        plan.n_ranks == 1
        or plan.compute.device == "cuda"
        or plan.config.model.rsunet_norm != "batch"
    ):
        return None
    return (
        "On the processor each process normalises the patches of its own batch only: "
        "model.rsunet_norm=group does not depend on how a step is shared out."
    )
