"""Keep the networks of several processes alike: rank 0 leads, the others assist."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from napari_volseg.distributed import Group, leave
from napari_volseg.learner import Learner
from napari_volseg.planning import TrainPlan, plan_from_json
from napari_volseg.preparing import TrainingData
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import Batch, batches

__all__ = ["Leader", "assist"]

_logger = logging.getLogger(__name__)


class Leader:
    """Tells the assisting ranks what to do; in a group of one, nothing.

    Parameters
    ----------
    group
        The processes that train together, of which this is rank 0.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._shared: tuple[Learner, int] | None = None

    def begin_step(self, learner: Learner, plan: TrainPlan) -> None:
        """Let the others take the next step too, with the same clock and rates.

        Weights that were loaded since the last step, at the start or to go back,
        are given to the others first.
        """
        if self._group.size == 1:
            return
        if self._shared != (learner, learner.n_loads):
            self._shared = learner, learner.n_loads
            self._group.send(
                {"do": "load", "plan": plan.to_json(), "state": learner.state()}
            )
        self._group.send(
            {
                "do": "step",
                "elapsed": learner.elapsed,
                "schedule": learner.schedule.state(),
            }
        )

    def share_anew(self) -> None:
        """Give the whole state to the others before the next step."""
        self._shared = None

    def wait(self) -> None:
        """Let the others know that this is a pause and not the end."""
        self._group.send({"do": "wait"})

    def end(self) -> None:
        """Let the others go; what is left to do is done alone."""
        self._group.send({"do": "end"})
        leave()


def assist(
    plan: TrainPlan, pairs: Sequence[TrainingPair], folder: Path, group: Group
) -> None:
    """Do the steps that rank 0 orders, until it has no more.

    Parameters
    ----------
    plan, pairs, folder
        The same as those of rank 0.
    group
        This process's place; its rank is not 0.
    """
    data = TrainingData(plan, pairs, folder)
    learner: Learner | None = None
    stream: Iterator[list[Batch]] = iter(())
    try:
        while (order := group.receive())["do"] != "end":
            if order["do"] == "load":
                del learner  # before memory is needed anew
                _close(stream)
                learner = Learner(plan_from_json(order["plan"]), group)
                learner.load(order["state"])
                data.follow(learner.record)
                stream = batches(
                    data.source,
                    learner.step,
                    range(group.rank, plan.micro_batches, group.size),
                    plan.config.system.training.num_workers,
                    device=plan.compute.device,
                )
            elif order["do"] == "step" and learner is not None:
                seeds = (plan.config.system.seed, group.rank)
                _step(learner, order, next(stream), seeds)
    finally:
        _close(stream)
        leave()


def _step(
    learner: Learner,
    order: dict[str, Any],
    micro_batches: list[Batch],
    seeds: tuple[int, int],
) -> None:
    learner.record.elapsed = order["elapsed"]
    learner.schedule.load(order["schedule"])
    # Dropout differs between ranks, and not between a run and its resumption.
    torch.manual_seed(hash((*seeds, learner.step)))
    try:
        learner.learn(micro_batches)
    except FloatingPointError:
        # It happens in all ranks alike, and the first decides what becomes of it.
        _logger.warning("the gradient is not finite at step %d", learner.step)


def _close(stream: Iterator[list[Batch]]) -> None:
    if isinstance(stream, Generator):
        stream.close()
