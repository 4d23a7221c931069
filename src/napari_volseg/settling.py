"""Settle what only a trial on this machine can tell: number format and batch."""

from __future__ import annotations

from dataclasses import replace

from napari_volseg.batching import fit_batch
from napari_volseg.planning import TrainPlan
from napari_volseg.probing import trusted_compute

__all__ = ["settle"]


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
    news = tuple(filter(None, (given_up, made_smaller)))
    return replace(plan, notices=plan.notices + news, is_settled=True)
