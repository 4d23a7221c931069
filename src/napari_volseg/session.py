"""A training under way: what each step, epoch and end of it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    Validated,
)
from napari_volseg.geometry import Box
from napari_volseg.learner import Learner
from napari_volseg.planning import HeldOut, TrainPlan
from napari_volseg.previews import Previewer
from napari_volseg.runs import Control, TrainingPair
from napari_volseg.sampling import Batch, PatchSource, prepare_volume
from napari_volseg.splitting import annotated_box
from napari_volseg.tensorboard_log import TensorBoardLog
from napari_volseg.validation import ENOUGH_OBJECTS, HeldOutVoxels, score_of
from napari_volseg.volume import LabelledVolume

__all__ = ["Session"]

_REPORT_SECONDS = 0.5
_MAX_FIT_VOXELS = 8_000_000


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


class Session:
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
        self.source = _prepare(plan, pairs, folder)
        self.held_out = (
            HeldOutVoxels(plan, pairs, plan.held_out) if plan.held_out else None
        )
        self.board = TensorBoardLog(
            folder / "tensorboard", plan.config.monitor.tensorboard
        )
        self._previewer = Previewer(plan, pairs, folder)
        now = time.monotonic()
        self.clock = _Clock(
            plan.config.monitor.checkpoint.every_minutes * 60, now, 0.0, now
        )
        self._best = False
        self._losses: list[float] = []
        self._parts: list[tuple[float, ...]] = []

    def learn(self, micro_batches: list[Batch]) -> None:
        """Do one step and keep its losses for the next report."""
        loss, parts = self.learner.learn(micro_batches)
        self.learner.record.elapsed += self.clock.lap()
        self.learner.record.epoch_losses.append(loss)
        self._losses.append(loss)
        self._parts.append(parts)
        self.learner.record.epoch_parts.append(parts)

    def progress(self, state: str = "running") -> Progress:
        """Report the mean losses since the last report."""
        learner = self.learner
        self.clock.reported = time.monotonic()
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
            state=state,  # type: ignore[arg-type]  # a literal at every call
        )

    def _total_steps(self, used: float) -> int:
        """Return the steps of all epochs, or those the minutes will suffice for."""
        if used <= 0:
            return self.plan.total_steps
        return min(self.plan.total_steps, round(self.learner.step / used))

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
        loss = float(np.mean(learner.record.epoch_losses))
        learner.record.epoch_losses = []
        parts = np.mean(learner.record.epoch_parts, axis=0).tolist()
        learner.record.epoch_parts = []
        self.board.losses(learner.step, loss, parts)
        self.board.scalars(learner.step, {"lr": learner.lr})
        watched = loss
        if self.held_out and learner.epoch % monitor.val_every_epochs == 0:
            yield self.progress("validating")
            validated = self._validate(self.held_out)
            watched = validated.metrics["loss"]
            yield validated
        elif not self.held_out:
            self._note_best(-loss, {"train_loss": loss})
        self._count_stale(watched)
        learner.record.last_loss = loss
        if learner.schedule.end_epoch(watched):
            yield Notice(f"The learning rate fell to {learner.lr:.2g}.")
        every = monitor.preview_every_epochs
        if every and learner.epoch % every == 0:
            yield self.preview(control)
        learner.record.elapsed += self.clock.lap()

    def converged(self) -> Reason | None:
        """Return why to stop early, if there is a reason."""
        stopping = self.plan.config.monitor.early_stopping
        if not stopping.enabled:
            return None
        low = self.learner.record.last_loss < stopping.threshold
        stale = self.learner.record.stale_epochs >= stopping.patience
        return "converged" if low or stale else None

    def preview_asked(self, control: Control) -> bool:
        """Return whether the user moved the preview box since the last preview."""
        return self._previewer.is_asked(control.preview_box)

    def preview(self, control: Control) -> PreviewReady:
        """Write the maps and instances of the preview box."""
        news, maps = self._previewer.make(self.learner, control.preview_box)
        self.board.maps(self.learner.step, maps)
        return news

    def finish(self, reason: Reason) -> Iterator[Event]:
        """Fit the thresholds of the best model and write it."""
        path = self.folder / "model.safetensors"
        learner = self.learner
        if not path.exists():
            save_model(path, learner.result.state_dict(), learner.metadata())
        else:
            learner.result.load_state_dict(load_model(path).network.state_dict())
        yield self.progress("validating")
        fitted_on = self._voxels_to_fit(reason)
        maps = fitted_on.predict(learner.result)
        learner.instances = fitted_on.fit(maps, learner.instances, _MAX_FIT_VOXELS)
        if self.held_out and fitted_on is not self.held_out:
            maps = self.held_out.predict(learner.result)
        metrics = (self.held_out or fitted_on).score(maps, learner.instances)
        if self.held_out:
            learner.record.best_metrics = metrics
            self.board.scalars(learner.step, _validation_names(metrics))
        save_model(path, learner.result.state_dict(), learner.metadata())
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
        where = "held-out" if self.held_out else "training"
        return (
            f"{verb} after {self.learner.step} steps: F1 {metrics['f1_50']:.2f}, "
            f"adapted Rand error {metrics['adapted_rand_error']:.2f} on the {where} "
            "voxels."
        )

    def _validate(self, held_out: HeldOutVoxels) -> Validated:
        learner = self.learner
        maps = held_out.predict(learner.result)
        learner.record.n_validations += 1
        n = learner.record.n_validations
        if n & (n - 1) == 0:
            # Often while the maps change quickly, rarely later: fitting is slow.
            learner.instances = held_out.fit(maps, learner.instances)
        metrics = held_out.score(maps, learner.instances)
        self.board.scalars(learner.step, _validation_names(metrics))
        best = self._note_best(score_of(metrics), metrics)
        return Validated(learner.step, metrics, best)

    def _note_best(self, score: float, metrics: dict[str, float]) -> bool:
        learner = self.learner
        margin = self.plan.config.monitor.early_stopping.min_delta
        if score <= learner.record.best_score:
            return False
        if score > learner.record.best_score + margin:
            learner.record.stale_epochs = -1
        learner.record.best_score, learner.record.best_metrics = score, metrics
        self._best = True
        save_model(
            self.folder / "model.safetensors",
            learner.result.state_dict(),
            learner.metadata(),
        )
        return True

    def _count_stale(self, watched: float) -> None:
        """Count epochs in which neither the score nor the watched loss improved."""
        learner = self.learner
        margin = self.plan.config.monitor.early_stopping.min_delta
        if watched < learner.record.lowest_loss - margin:
            learner.record.lowest_loss, learner.record.stale_epochs = watched, 0
        else:
            learner.record.stale_epochs += 1

    def _voxels_to_fit(self, reason: Reason) -> HeldOutVoxels:
        """Return the held-out voxels, or all when those hold few objects.

        Thresholds chosen for a handful of objects suit nothing else. Who stops a
        training does not wait for more than the held-out voxels.
        """
        held_out = self.held_out
        enough = held_out and held_out.n_objects >= ENOUGH_OBJECTS
        if held_out and (enough or reason == "stopped"):
            return held_out
        train = [i for i, pair in enumerate(self.pairs) if pair.role == "train"]
        boxes = [
            HeldOut(i, _middle(self.pairs[i].volume, _MAX_FIT_VOXELS // len(train)))
            for i in train
        ]
        return HeldOutVoxels(self.plan, self.pairs, boxes)


def _middle(volume: LabelledVolume, n_voxels: int) -> Box:
    """Return the middle of the annotation, of about `n_voxels` at most."""
    box = annotated_box(volume)
    share = min(1.0, (n_voxels / box.size) ** (1 / 3))
    edges = [max(1, round(n * share)) for n in box.shape]
    z, y, x = (
        a + (n - e) // 2 for a, n, e in zip(box.start, box.shape, edges, strict=True)
    )
    return Box((z, y, x), (z + edges[0], y + edges[1], x + edges[2]))


def _prepare(
    plan: TrainPlan, pairs: Sequence[TrainingPair], folder: Path
) -> PatchSource:
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


def _validation_names(metrics: dict[str, float]) -> dict[str, float]:
    return {f"val_{name}": value for name, value in metrics.items()}
