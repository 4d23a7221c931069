"""Train a network on labelled volumes.

`train` is a generator of events and reads top to bottom: step, report, and at
the end of an epoch validate, preview, decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from napari_volseg.distributed import ALONE, Group
from napari_volseg.events import Event, Notice, Started
from napari_volseg.planning import TrainPlan
from napari_volseg.runs import Control, TrainingPair
from napari_volseg.schedules import stages_notice
from napari_volseg.selection import Verdict
from napari_volseg.session import Session
from napari_volseg.settling import settle

__all__ = ["train"]


def train(
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    folder: Path,
    *,
    resume: bool = False,
    read_control: Callable[[], Control] = Control,
    group: Group = ALONE,
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
    group
        The processes that train together, of which this is rank 0.

    Yields
    ------
    Event
        `Started`, then any of `Progress`, `Validated`, `PreviewReady`,
        `CheckpointSaved` and `Notice`, then `Finished`.

    Raises
    ------
    DataError
        If the loss is still not finite after two returns to an earlier state; the
        last checkpoint remains.
    """
    plan = settle(plan)
    run = Session(plan, pairs, folder, resume, group)
    yield Started(
        "train",
        run.plan.device_in_words,
        run.learner.total_steps,
        run.learner.step,
        plan.memory_bytes,
    )
    unlike = stages_notice(plan.config.optimization)
    for message in filter(None, (*plan.notices, *run.data.notices, unlike)):
        yield Notice(message, "warning")
    yield from run.score_start()
    stream = run.batches()
    verdict = _budget_used(run)
    try:
        while verdict is None:
            control = read_control()
            if control.pause and not control.stop:
                yield from run.hold(read_control)
                continue
            if control.stop:
                verdict = Verdict("stopped")
                break
            if (revision := run.new_labels(control)) is not None:
                stream.close()  # type: ignore[attr-defined]
                yield from run.take_labels(revision)
                stream = run.batches()
            try:
                run.learn(next(stream))
            except FloatingPointError:
                stream.close()  # type: ignore[attr-defined]  # batches() is a generator
                yield run.rescue()
                stream = run.batches()
                continue
            for message in run.learner.take_news():
                yield Notice(message, "warning")
            if run.pace.report_due():
                yield run.progress()
            if run.preview_asked(control):
                yield from run.preview(control)
            if run.learner.ends_epoch:
                yield from run.end_epoch(control)
                verdict = run.verdict()
            verdict = verdict or _budget_used(run)
            yield from run.save_if_due()
        yield run.progress()
        yield from run.save()
        yield from run.finish(verdict)
    finally:
        stream.close()  # type: ignore[attr-defined]
        run.close()


def _budget_used(run: Session) -> Verdict | None:
    return Verdict("completed") if run.learner.progress >= 1 else None
