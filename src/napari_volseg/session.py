"""A training under way: what each step, epoch and end of it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import astuple
from math import inf, isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.distributed import ALONE, Group
from napari_volseg.errors import DataError
from napari_volseg.events import (
    CheckpointSaved,
    Event,
    Notice,
    PreviewReady,
    Progress,
    Validated,
)
from napari_volseg.finishing import finish
from napari_volseg.io import expand_home
from napari_volseg.learner import Learner
from napari_volseg.models import read_model_info
from napari_volseg.pacing import Pace
from napari_volseg.planning import TrainPlan
from napari_volseg.preparing import TrainingData
from napari_volseg.previews import Previewer
from napari_volseg.recovery import plan_after, refuse_third, rescue, rescue_message
from napari_volseg.replicas import Leader
from napari_volseg.runfiles import RunFiles
from napari_volseg.runs import (
    Control,
    TrainingPair,
    newest_revision,
    remove_revisions,
)
from napari_volseg.sampling import Batch, batches
from napari_volseg.selection import (
    Verdict,
    early_verdict,
    note_epoch,
    note_new_labels,
    note_score,
)
from napari_volseg.signs import REPEAT_AFTER, Epoch, find_signs
from napari_volseg.tensorboard_log import TensorBoardLog
from napari_volseg.validation import HeldOutVoxels, score_of

__all__ = ["Session"]

_CHANCE = 0.02
"""By how much scores of models that are equally good may differ."""

_NO_GAIN = (
    "The model that this training began with scored better on the held-out voxels: it "
    "is unchanged and can still be chosen to predict with. Train longer, or with a "
    "lower optimization.optimizer.lr, to improve on it."
)


class Session:
    """A training under way: the learner, its data and the files it writes."""

    def __init__(
        self,
        plan: TrainPlan,
        pairs: Sequence[TrainingPair],
        folder: Path,
        resume: bool,
        group: Group = ALONE,
    ) -> None:
        self.folder = folder
        state = load_checkpoint(folder / "checkpoints") if resume else None
        self._is_new = state is None
        rescues = state["record"]["rescues"] if state else 0
        self.plan = plan_after(plan, rescues)
        self.learner = Learner(self.plan, group, begin=state is None)
        self._leader = Leader(group)
        if state is not None:
            self.learner.load(state)
        self.data = TrainingData(plan, pairs, folder, self.learner.record)
        self.learner.intensities = self.data.intensities
        self._look_at(self.plan)
        self._newest = newest_revision(folder)
        self._refused = 0
        self.board = TensorBoardLog(
            folder / "tensorboard", plan.config.monitor.tensorboard
        )
        self.pace = Pace(plan.config.monitor.checkpoint.every_minutes * 60)
        self._files = RunFiles(
            folder, plan.config.monitor.checkpoint.save_top_k, self.pace
        )
        self._losses: list[float] = []
        self._parts: list[tuple[float, ...]] = []

    def batches(self) -> Iterator[list[Batch]]:
        """Return the batches of all steps from the next one on."""
        return batches(
            self.data.source,
            self.learner.step,
            range(0, self.plan.micro_batches, self.learner.group.size),
            self.plan.config.system.training.num_workers,
            device=self.plan.compute.device,
        )

    def learn(self, micro_batches: list[Batch]) -> None:
        """Do one step and keep its losses for the next report.

        Raises
        ------
        FloatingPointError
            When steps are not finite any more; `rescue` may help.
        """
        record = self.learner.record
        self._leader.begin_step(self.learner, self.plan)
        loss, parts = self.learner.learn(micro_batches)
        record.elapsed += self.pace.lap()
        if isfinite(loss):
            record.epoch_losses.append(loss)
            record.epoch_parts.append(parts)
            self._losses.append(loss)
            self._parts.append(parts)

    def score_start(self) -> Iterator[Progress | Validated]:
        """Score the model whose weights a new training begins with, if there is one.

        With the thresholds that it was given, as its user saw it. It is not the best
        so far: who trains on wants what was learnt since, and is told if that is worse.
        """
        given = self.plan.config.model.initial_weights
        if not (self._is_new and given and self.held_out):
            return
        yield self.progress("validating")
        maps = self.held_out.predict(self.learner.result)
        thresholds = read_model_info(expand_home(given)).instances
        metrics = self.held_out.score(maps, thresholds)
        self.learner.record.start_score = score_of(metrics)
        yield Validated(0, metrics, best=False)

    def progress(self, state: str = "running") -> Progress:
        """Report the mean losses since the last report."""
        learner = self.learner
        self.pace.reported()
        losses, self._losses = self._losses, []
        parts, self._parts = self._parts, []
        used = learner.progress
        return Progress(
            step=learner.step,
            total=self._total_steps(used),
            elapsed=learner.elapsed,
            remaining=learner.elapsed * (1 - used) / used if used > 0 else None,
            epoch=learner.epoch,
            loss=float(np.mean(losses)) if losses else None,
            losses=tuple(np.mean(parts, axis=0).tolist()) if parts else (),
            lr=learner.lr,
            skipped=learner.record.n_skipped,
            state=state,  # type: ignore[arg-type]  # a literal at every call
        )

    def _total_steps(self, used: float) -> int:
        """Return the steps of all epochs, or those the minutes will suffice for."""
        total, record = self.learner.total_steps, self.learner.record
        if used <= 0:
            return total
        return min(total, round(record.counted / used) - record.shift)

    def hold(self, read_control: Callable[[], Control]) -> Iterator[Event]:
        """Save, then wait until the pause or the run is ended."""
        yield from self.save()
        yield self.progress("paused")
        while (control := read_control()).pause and not control.stop:
            if self.preview_asked(control):
                yield from self.preview(control)
            self._leader.wait()
            time.sleep(0.1)
        self.pace.lap()

    def save_if_due(self) -> Iterator[CheckpointSaved | Notice]:
        """Write a checkpoint when it is time, but none of a training in trouble."""
        if self.pace.checkpoint_due() and not self.learner.record.skipped_in_row:
            yield from self.save()

    def save(self) -> Iterator[CheckpointSaved | Notice]:
        """Write a checkpoint; a disk that refuses it does not end the training."""
        yield from self._files.save_checkpoint(self.learner)

    def end_epoch(self, control: Control) -> Iterator[Event]:
        """Validate, preview, and let the schedule know."""
        learner, monitor = self.learner, self.plan.config.monitor
        self._newest = newest_revision(self.folder)
        record, lr = learner.record, learner.lr
        loss = self._mean_loss()
        n_epochs = monitor.val_every_epochs if self.held_out else 1
        val = None
        if not self.held_out:
            yield from self._note_best(-loss, {"train_loss": loss})
        elif learner.epoch % n_epochs == 0:
            yield self.progress("validating")
            val = yield from self._validate(self.held_out, loss)
        record.last_loss = loss
        # Where there are held-out voxels, a training loss does not compare with theirs.
        watched = val if self.held_out else loss
        if watched is not None:
            note_epoch(
                record, loss, watched, monitor.early_stopping.min_delta, n_epochs
            )
            if learner.schedule.end_epoch(watched, n_epochs):
                yield Notice(f"The learning rate fell to {learner.lr:.2g}.")
        skipped = (record.n_skipped - record.skipped_before) / self.plan.steps_per_epoch
        record.skipped_before = record.n_skipped
        yield from self._signs(Epoch(loss, val, lr, skipped))
        every = monitor.preview_every_epochs
        if every and learner.epoch % every == 0:
            yield from self.preview(control)
        record.elapsed += self.pace.lap()

    def verdict(self) -> Verdict | None:
        """Return why to stop early, if there is a reason."""
        return early_verdict(self.learner.record, self.plan.config)

    def rescue(self) -> Notice:
        """Go back to the last good state, after steps that were not finite.

        Raises
        ------
        DataError
            If that has been done twice.
        """
        failed = self.learner
        refuse_third(self.plan, failed.record)
        plan = plan_after(self.plan, failed.record.rescues + 1)
        self.learner = rescue(plan, failed, self.folder / "checkpoints")
        self.data.follow(self.learner.record)
        if plan.compute != self.plan.compute:
            self._look_at(plan)
        self.plan = plan
        self._losses, self._parts = [], []
        return Notice(rescue_message(plan, self.learner), "warning")

    def new_labels(self, control: Control) -> int | None:
        """Return the revision of labels to take now; None while there is none."""
        wanted = max(control.revision, self._newest)
        known = max(self.learner.record.revision, self._refused)
        return wanted if wanted > known else None

    def take_labels(self, revision: int) -> Iterator[Event]:
        """Learn from new labels from the next step on; say what they changed.

        Labels that cannot be used leave everything as it is.
        """
        record = self.learner.record
        try:
            message, is_truth_new = self.data.take(revision, record)
        except DataError as error:
            self._refused = revision
            yield Notice(
                f"The new labels were not taken, training goes on with those before: "
                f"{error}",
                "warning",
            )
            return
        self._leader.share_anew()
        self._look_at(self.plan)
        note_new_labels(record, is_truth_new or not self.held_out)
        self.learner.schedule.forget()
        if is_truth_new:
            record.start_score = -inf
        yield Notice(message)
        if not record.skipped_in_row:
            saved = False
            for event in self.save():
                saved = saved or isinstance(event, CheckpointSaved)
                yield event
            if saved:
                remove_revisions(self.folder, revision)
        self.pace.lap()

    def preview_asked(self, control: Control) -> bool:
        """Return whether the user moved the preview box since the last preview."""
        return self._previewer.is_asked(control.preview_box)

    def preview(self, control: Control) -> Iterator[PreviewReady | Notice]:
        """Write the maps and instances of the preview box."""
        maps = yield from self._files.save_preview(
            self._previewer, self.learner, control.preview_box
        )
        if maps is not None:
            self._show(maps)

    def _show(self, maps_CZYX: NDArray[np.uint8]) -> None:
        if self.board.enabled:
            image_ZYX, truth = self._previewer.scene()
            self.board.images(self.learner.step, image_ZYX, maps_CZYX, truth)

    def finish(self, verdict: Verdict) -> Iterator[Event]:
        """Fit the thresholds of the best model and write it."""
        self._leader.end()
        yield self.progress("validating")
        finished = finish(
            verdict,
            self.plan,
            self.data.pairs,
            self.learner,
            self.held_out,
            self.folder,
        )
        if self.held_out:
            self.board.validation(self.learner.step, finished.metrics)
            score = score_of(finished.metrics)
            if self.learner.record.start_score > score + _CHANCE:
                yield Notice(_NO_GAIN, "warning")
        yield finished

    def close(self) -> None:
        """Let go of the device and of files."""
        self.board.close()
        del self.learner

    def _look_at(self, plan: TrainPlan) -> None:
        """Prepare what is looked at during the training."""
        self.held_out = (
            HeldOutVoxels(plan, self.data.pairs, plan.held_out)
            if plan.held_out
            else None
        )
        self._previewer = Previewer(plan, self.data.pairs, self.folder)

    def _mean_loss(self) -> float:
        """Return the mean loss of the epoch that ends, and log it."""
        record = self.learner.record
        losses, record.epoch_losses = record.epoch_losses, []
        parts, record.epoch_parts = record.epoch_parts, []
        if not losses:  # every step of it was skipped
            return record.last_loss
        loss = float(np.mean(losses))
        self.board.epoch(
            record.step,
            loss,
            np.mean(parts, axis=0).tolist(),
            self.learner.lr,
            self.learner.grad_norm,
        )
        return loss

    def _signs(self, epoch: Epoch) -> Iterator[Notice]:
        """Note an epoch and say what the curves say, but nothing twice in a row."""
        record = self.learner.record
        record.epochs.append(astuple(epoch))
        epochs = [Epoch(*numbers) for numbers in record.epochs]
        for sign in find_signs(epochs, self.plan.config.optimization):
            last = record.signs.get(sign.kind)
            if last is None or len(epochs) - last >= REPEAT_AFTER:
                record.signs[sign.kind] = len(epochs)
                yield Notice(sign.message, sign.level)

    def _validate(
        self, held_out: HeldOutVoxels, train_loss: float
    ) -> Generator[Validated | Notice, None, float]:
        """Score the held-out voxels; return the loss on them."""
        learner = self.learner
        maps = held_out.predict(learner.result)
        learner.record.n_validations += 1
        n = learner.record.n_validations
        if n & (n - 1) == 0:
            # Often while the maps change quickly, rarely later: fitting is slow.
            learner.instances = held_out.fit(maps, self.plan.config.instances)
        metrics = held_out.score(maps, learner.instances)
        self.board.validation(learner.step, metrics, train_loss)
        best = yield from self._note_best(score_of(metrics), metrics)
        yield Validated(learner.step, metrics, best)
        return metrics["loss"]

    def _note_best(
        self, score: float, metrics: dict[str, float]
    ) -> Generator[Notice, None, bool]:
        """Write the model if it is the best so far; return whether it was written."""
        record = self.learner.record
        before = record.best_score, record.best_metrics
        margin = self.plan.config.monitor.early_stopping.min_delta
        if not note_score(record, score, metrics, margin):
            return False
        saved = yield from self._files.save_best(self.learner)
        if not saved:
            record.best_score, record.best_metrics = before
        return saved
