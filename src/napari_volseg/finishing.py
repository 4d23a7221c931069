"""The end of a training: thresholds, the model file and the last word."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path

from napari_volseg.annotated import fullest_box
from napari_volseg.checkpoint import load_model, save_model
from napari_volseg.events import Finished
from napari_volseg.learner import Learner
from napari_volseg.planning import HeldOut, TrainPlan
from napari_volseg.runs import TrainingPair
from napari_volseg.selection import Verdict
from napari_volseg.validation import ENOUGH_OBJECTS, HeldOutVoxels

__all__ = ["finish"]

_MAX_FIT_VOXELS = 8_000_000


def finish(
    verdict: Verdict,
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    learner: Learner,
    held_out: HeldOutVoxels | None,
    folder: Path,
) -> Finished:
    """Fit the thresholds of the best model, write it and sum up."""
    path = folder / "model.safetensors"
    network = learner.result
    # A file that is there may be of a session that ended before the first score.
    if not path.exists() or learner.record.best_score == -inf:
        save_model(path, network.state_dict(), learner.metadata())
    else:
        network.load_state_dict(load_model(path).network.state_dict())
    fitted_on = _voxels_to_fit(verdict, plan, pairs, held_out)
    maps = fitted_on.predict(network)
    learner.instances = fitted_on.fit(maps, plan.config.instances, _MAX_FIT_VOXELS)
    if held_out and fitted_on is not held_out:
        maps = held_out.predict(network)
    metrics = (held_out or fitted_on).score(maps, learner.instances)
    if held_out:
        learner.record.best_metrics = metrics
    save_model(path, network.state_dict(), learner.metadata())
    where = "held-out" if held_out else "training"
    message = _summary(verdict, learner.step, metrics, where)
    return Finished(verdict.reason, message, str(path), metrics)


def _summary(verdict: Verdict, step: int, metrics: dict[str, float], where: str) -> str:
    verb = {"completed": "Trained", "stopped": "Stopped", "converged": "Converged"}
    why = f" ({verdict.why})" if verdict.why else ""
    return (
        f"{verb[verdict.reason]} after {step} steps{why}: F1 {metrics['f1_50']:.2f}, "
        f"adapted Rand error {metrics['adapted_rand_error']:.2f} on the {where} voxels."
    )


def _voxels_to_fit(
    verdict: Verdict,
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    held_out: HeldOutVoxels | None,
) -> HeldOutVoxels:
    """Return the held-out voxels, or all when those hold few objects.

    Thresholds chosen for a handful of objects suit nothing else. Who stops a
    training does not wait for more than the held-out voxels.
    """
    enough = held_out and held_out.n_objects >= ENOUGH_OBJECTS
    if held_out and (enough or verdict.reason == "stopped"):
        return held_out
    train = [i for i, pair in enumerate(pairs) if pair.role == "train"]
    boxes = [
        HeldOut(i, fullest_box(pairs[i].volume, _MAX_FIT_VOXELS // len(train)))
        for i in train
    ]
    return HeldOutVoxels(plan, pairs, boxes)
