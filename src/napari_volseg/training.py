"""Train a network on labelled volumes.

`train` is a generator of events and reads top to bottom: step, report, and at
the end of an epoch validate, preview, decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from napari_volseg.events import Event, Notice, Reason, Started
from napari_volseg.learner import Learner
from napari_volseg.planning import TrainPlan
from napari_volseg.probing import trusted_compute
from napari_volseg.runs import Control, TrainingPair
from napari_volseg.sampling import batches
from napari_volseg.session import Session

__all__ = ["train"]


def train(
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    folder: Path,
    *,
    resume: bool = False,
    read_control: Callable[[], Control] = Control,
) -> Iterator[Event]:
    """Optimise the planned network, reporting as it goes.

    The same plan, pairs and seed give the same losses on one device, and a
    resumed run goes on as if it had never ended; a time budget, which depends
    on the clock, is the exception.

    Parameters
    ----------
    plan
        From `planning.plan_training`, for the same pairs.
    pairs
        Volumes to train and validate on. Read, never written.
    folder
        The run folder: checkpoints, previews and the model go there.
    resume
        Continue from the newest checkpoint, where there is one.
    read_control
        Asked before every step what the outside wants.

    Yields
    ------
    Event
        `Started`, then any of `Progress`, `Validated`, `PreviewReady`,
        `CheckpointSaved` and `Notice`, then `Finished`.

    Raises
    ------
    FloatingPointError
        If the gradient stays infinite; the last checkpoint remains.
    """
    compute, given_up = trusted_compute(plan)
    plan = replace(plan, compute=compute)
    run = Session(plan, pairs, folder, resume)
    learner = run.learner
    yield Started(
        "train", str(compute), plan.total_steps, learner.step, plan.memory_bytes
    )
    for message in filter(None, (*plan.notices, given_up)):
        yield Notice(message, "warning")
    stream = batches(
        run.source,
        learner.step,
        range(plan.micro_batches),
        plan.config.system.training.num_workers,
    )
    reason: Reason | None = _budget_used(learner, plan)
    try:
        while reason is None:
            control = read_control()
            if control.pause and not control.stop:
                yield from run.hold(read_control)
                continue
            if control.stop:
                reason = "stopped"
                break
            run.learn(next(stream))
            if run.clock.report_due():
                yield run.progress()
            if run.preview_asked(control):
                yield run.preview(control)
            if learner.step % plan.steps_per_epoch == 0:
                yield from run.end_epoch(control)
                reason = run.converged()
            reason = reason or _budget_used(learner, plan)
            if run.clock.checkpoint_due():
                yield run.save()
        yield run.progress()
        yield run.save()
        yield from run.finish(reason)
    finally:
        stream.close()  # type: ignore[attr-defined]  # batches() is a generator
        run.close()


def _budget_used(learner: Learner, plan: TrainPlan) -> Reason | None:
    return "completed" if learner.progress >= 1 else None
