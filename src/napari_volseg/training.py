"""Train a network on labelled volumes.

`train` is a generator of events and reads top to bottom: step, report, and at
the end of an epoch validate, preview, decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_volseg.checkpoint import (
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
)
from napari_volseg.errors import DataError
from napari_volseg.events import (
    CheckpointSaved,
    Event,
    Finished,
    Notice,
    PreviewReady,
    Progress,
    Reason,
    Started,
    Validated,
)
from napari_volseg.geometry import Box
from napari_volseg.instances import segment
from napari_volseg.io import atomic_path
from napari_volseg.learner import Learner
from napari_volseg.planning import HeldOut, TrainPlan
from napari_volseg.probing import trusted_compute
from napari_volseg.runs import Control, TrainingPair
from napari_volseg.sampling import Batch, PatchSource, batches, prepare_volume
from napari_volseg.splitting import annotated_box
from napari_volseg.tensorboard_log import TensorBoardLog
from napari_volseg.validation import (
    HeldOutVoxels,
    predict_region,
    preview_region,
    score_of,
)
from napari_volseg.volume import intensity_range

__all__ = ["train"]

_REPORT_SECONDS = 0.5
_MAX_FIT_VOXELS = 4_000_000


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
    run = _Run(plan, pairs, folder, resume)
    learner = run.learner
    yield Started(
        "train", str(compute), plan.total_steps, learner.step, plan.memory_bytes
    )
    for message in filter(None, (*plan.notices, given_up)):
        yield Notice(message, "warning")
    stream = batches(
        run.source,
        learner.step,
        plan.config.optimization.accumulate_grad_batches,
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


@dataclass
class _Clock:
    """Active time: pauses do not count."""

    checkpoint_seconds: float
    started: float
    reported: float = 0.0
    saved: float = 0.0

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.monotonic()
        lap, self.started = now - self.started, now
        return lap

    def report_due(self) -> bool:
        return time.monotonic() - self.reported >= _REPORT_SECONDS

    def checkpoint_due(self) -> bool:
        return time.monotonic() - self.saved >= self.checkpoint_seconds


class _Run:
    """A training under way: the learner, its data and the files it writes."""

    def __init__(
        self,
        plan: TrainPlan,
        pairs: Sequence[TrainingPair],
        folder: Path,
        resume: bool,
    ) -> None:
        self.plan = plan
        self.pairs = pairs
        self.folder = folder
        self.learner = Learner(plan)
        state = load_checkpoint(folder / "checkpoints") if resume else None
        if state is not None:
            self.learner.load(state)
        self.source = _prepare(plan, pairs)
        self.held_out = HeldOutVoxels(plan, pairs, plan.held_out)
        self.board = TensorBoardLog(
            folder / "tensorboard", plan.config.monitor.tensorboard
        )
        now = time.monotonic()
        self.clock = _Clock(
            plan.config.monitor.checkpoint.every_minutes * 60, now, 0.0, now
        )
        self._best = False
        self._losses: list[float] = []
        self._parts: list[tuple[float, ...]] = []
        self._epoch_parts: list[tuple[float, ...]] = []
        self._previewed: tuple[object, int] | None = None
        self._ranges: dict[int, NDArray[np.float32]] = {}

    def learn(self, micro_batches: list[Batch]) -> None:
        """Do one step and keep its losses for the next report."""
        loss, parts = self.learner.learn(micro_batches)
        self.learner.elapsed += self.clock.lap()
        self.learner.epoch_losses.append(loss)
        self._losses.append(loss)
        self._parts.append(parts)
        self._epoch_parts.append(parts)

    def progress(self, state: str = "running") -> Progress:
        """Report the mean losses since the last report."""
        learner = self.learner
        self.clock.reported = time.monotonic()
        losses, self._losses = self._losses, []
        parts, self._parts = self._parts, []
        used = learner.progress
        return Progress(
            step=learner.step,
            total=self.plan.total_steps,
            elapsed=learner.elapsed,
            remaining=learner.elapsed * (1 - used) / used if used > 0 else None,
            epoch=learner.epoch,
            loss=float(np.mean(losses)) if losses else None,
            losses=tuple(np.mean(parts, axis=0).tolist()) if parts else (),
            lr=learner.lr,
            state=state,  # type: ignore[arg-type]  # a literal at every call
        )

    def hold(self, read_control: Callable[[], Control]) -> Iterator[Event]:
        """Save, then wait until the pause or the run is ended."""
        yield self.save()
        yield self.progress("paused")
        while (control := read_control()).pause and not control.stop:
            if self.preview_asked(control):
                yield self.preview(control)
            time.sleep(0.1)
        self.clock.lap()

    def save(self) -> CheckpointSaved | Notice:
        """Write a checkpoint; a disk that refuses it does not end the training."""
        self.clock.saved = time.monotonic()
        try:
            path = save_checkpoint(
                self.folder / "checkpoints",
                self.learner.state(),
                self.learner.step,
                best=self._best,
                keep=self.plan.config.monitor.checkpoint.save_top_k,
            )
        except (OSError, DataError) as error:
            return Notice(
                f"No checkpoint was saved, training goes on: {error}", "warning"
            )
        best, self._best = self._best, False
        name = path.relative_to(self.folder).as_posix()
        return CheckpointSaved(self.learner.step, name, best)

    def end_epoch(self, control: Control) -> Iterator[Event]:
        """Validate, preview, and let the schedule know."""
        learner, monitor = self.learner, self.plan.config.monitor
        loss = float(np.mean(learner.epoch_losses))
        learner.epoch_losses = []
        parts = np.mean(self._epoch_parts, axis=0).tolist()
        self._epoch_parts = []
        self.board.losses(learner.step, loss, parts)
        self.board.scalars(learner.step, {"lr": learner.lr})
        watched = loss
        if self.plan.held_out and learner.epoch % monitor.val_every_epochs == 0:
            yield self.progress("validating")
            validated = self._validate()
            watched = validated.metrics["loss"]
            yield validated
        elif not self.plan.held_out:
            self._note_best(-loss, {"train_loss": loss})
        self._count_stale(watched)
        learner.last_loss = loss
        if learner.schedule.end_epoch(watched):
            yield Notice(f"The learning rate fell to {learner.lr:.2g}.")
        every = monitor.preview_every_epochs
        if every and learner.epoch % every == 0:
            yield self.preview(control)
        learner.elapsed += self.clock.lap()

    def converged(self) -> Reason | None:
        """Return why to stop early, if there is a reason."""
        stopping = self.plan.config.monitor.early_stopping
        if not stopping.enabled:
            return None
        low = self.learner.last_loss < stopping.threshold
        stale = self.learner.stale_epochs >= stopping.patience
        return "converged" if low or stale else None

    def preview_asked(self, control: Control) -> bool:
        """Return whether the user moved the preview box since the last preview."""
        asked = control.preview_box
        return asked is not None and (
            self._previewed is None or self._previewed[0] != asked
        )

    def preview(self, control: Control) -> PreviewReady:
        """Write the maps and instances of the preview box."""
        pair, box = preview_region(
            control.preview_box, self.pairs, self.plan.patch_size
        )
        volume = self.pairs[pair].volume
        if pair not in self._ranges:
            self._ranges[pair] = intensity_range(
                volume.image, self.plan.config.data.percentiles
            )
        maps = predict_region(
            self.learner.network, self.plan, volume, self._ranges[pair], box
        )
        self.board.maps(self.learner.step, maps)
        labels = segment(maps, self.learner.instances)
        name = self._write_preview(maps, labels, box)
        self._previewed = (control.preview_box, self.learner.step)
        return PreviewReady(self.learner.step, name, pair, box.start, box.stop)

    def finish(self, reason: Reason) -> Iterator[Event]:
        """Fit the thresholds of the best model and write it."""
        path = self.folder / "model.safetensors"
        learner = self.learner
        if not path.exists():
            save_model(path, learner.network.state_dict(), learner.metadata())
        else:
            learner.network.load_state_dict(load_model(path).network.state_dict())
        voxels = self.held_out if self.plan.held_out else self._training_voxels()
        yield self.progress("validating")
        maps = voxels.predict(learner.network)
        learner.instances = voxels.fit(maps, learner.instances)
        metrics = voxels.score(maps, learner.instances)
        if self.plan.held_out:
            learner.best_metrics = metrics
            self.board.scalars(learner.step, _validation_names(metrics))
        save_model(path, learner.network.state_dict(), learner.metadata())
        yield Finished(reason, self._summary(reason, metrics), str(path), metrics)

    def close(self) -> None:
        """Let go of the device and of files."""
        self.board.close()
        del self.learner.network

    def _summary(self, reason: Reason, metrics: dict[str, float]) -> str:
        verb = {
            "completed": "Trained",
            "stopped": "Stopped",
            "converged": "Converged",
        }.get(reason, "Ended")
        where = "held-out" if self.plan.held_out else "training"
        return (
            f"{verb} after {self.learner.step} steps: F1 {metrics['f1_50']:.2f}, "
            f"adapted Rand error {metrics['adapted_rand_error']:.2f} on the {where} "
            "voxels."
        )

    def _validate(self) -> Validated:
        learner = self.learner
        maps = self.held_out.predict(learner.network)
        learner.n_validations += 1
        n = learner.n_validations
        if n & (n - 1) == 0:
            # Often while the maps change quickly, rarely later: fitting is slow.
            learner.instances = self.held_out.fit(maps, learner.instances)
        metrics = self.held_out.score(maps, learner.instances)
        self.board.scalars(learner.step, _validation_names(metrics))
        best = self._note_best(score_of(metrics), metrics)
        return Validated(learner.step, metrics, best)

    def _note_best(self, score: float, metrics: dict[str, float]) -> bool:
        learner = self.learner
        margin = self.plan.config.monitor.early_stopping.min_delta
        if score <= learner.best_score:
            return False
        if score > learner.best_score + margin:
            learner.stale_epochs = -1
        learner.best_score, learner.best_metrics = score, metrics
        self._best = True
        save_model(
            self.folder / "model.safetensors",
            learner.network.state_dict(),
            learner.metadata(),
        )
        return True

    def _count_stale(self, watched: float) -> None:
        """Count epochs in which neither the score nor the watched loss improved."""
        learner = self.learner
        margin = self.plan.config.monitor.early_stopping.min_delta
        if watched < learner.lowest_loss - margin:
            learner.lowest_loss, learner.stale_epochs = watched, 0
        else:
            learner.stale_epochs += 1

    def _training_voxels(self) -> HeldOutVoxels:
        """Take the training voxels to fit thresholds on, when none are held out."""
        volume = self.pairs[0].volume
        box = annotated_box(volume)
        while box.size > _MAX_FIT_VOXELS:
            z, y, x = (max(1, n * 3 // 4) for n in box.shape)
            start = box.start
            box = Box(start, (start[0] + z, start[1] + y, start[2] + x))
        return HeldOutVoxels(self.plan, self.pairs, [HeldOut(0, box)])

    def _write_preview(
        self, maps: NDArray[np.uint8], labels: NDArray[np.int32], box: Box
    ) -> str:
        folder = self.folder / "previews"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"preview-{self.learner.step:06d}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, maps=maps, instances=labels, start=np.array(box.start))
        for old in sorted(folder.glob("preview-*.npz"))[:-2]:
            old.unlink(missing_ok=True)
        return path.relative_to(self.folder).as_posix()


def _prepare(plan: TrainPlan, pairs: Sequence[TrainingPair]) -> PatchSource:
    prepared = [
        prepare_volume(
            pair.volume,
            [h.box for h in plan.held_out if h.pair == index],
            plan.guard,
            plan.config,
            plan.patch_size,
            plan.boundary,
            plan.distance,
        )
        for index, pair in enumerate(pairs)
        if pair.role == "train"
    ]
    return PatchSource(prepared, plan.config, plan.patch_size)


def _validation_names(metrics: dict[str, float]) -> dict[str, float]:
    return {f"val_{name}": value for name, value in metrics.items()}
