"""Which model is the best so far, and whether going on can improve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

from napari_volseg.config import Config
from napari_volseg.events import Reason
from napari_volseg.record import Record

__all__ = ["Verdict", "early_verdict", "note_epoch", "note_new_labels", "note_score"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a training ends."""

    reason: Reason
    why: str = ""
    """For the user: what was noticed and what to change; empty if there is nothing."""


def note_score(
    record: Record, score: float, metrics: Mapping[str, float], margin: float
) -> bool:
    """Take note of a score; return whether it is the best so far.

    Only a gain of more than `margin` counts as an improvement for patience.
    """
    if not score > record.best_score:
        return False
    if score > record.best_score + margin:
        record.stale_epochs = -1
    record.best_score, record.best_metrics = score, dict(metrics)
    return True


def note_epoch(
    record: Record, train: float, watched: float, margin: float, n_epochs: int = 1
) -> None:
    """Count epochs in which neither the score nor the watched loss improved.

    Parameters
    ----------
    n_epochs
        Epochs since the watched loss was known last.
    """
    record.last_loss, record.watched_loss = train, watched
    if watched < record.lowest_loss - margin:
        record.lowest_loss, record.stale_epochs = watched, 0
    elif record.stale_epochs < 0:  # the score improved just now
        record.stale_epochs = 0
    else:
        record.stale_epochs += n_epochs


def note_new_labels(record: Record, is_yardstick_new: bool) -> None:
    """Begin to count anew after labels changed: losses do not compare any more.

    Parameters
    ----------
    is_yardstick_new
        Whether scores do not compare either: the next model is then the best one.
    """
    record.lowest_loss, record.stale_epochs = inf, 0
    if is_yardstick_new:
        record.best_score = -inf


def early_verdict(record: Record, config: Config) -> Verdict | None:
    """Return why to stop before the budget is used up, if there is a reason."""
    stopping = config.monitor.early_stopping
    if not stopping.enabled:
        return None
    if record.last_loss < stopping.threshold:
        return Verdict(
            "converged", f"the training loss is below {stopping.threshold:g}"
        )
    limit = stopping.divergence_threshold
    # The watched loss is not finite before the first validation.
    losses = (record.last_loss, record.watched_loss)
    highest = max(filter(isfinite, losses), default=0.0)
    if limit is not None and highest > limit:
        half = config.optimization.optimizer.lr / 2
        return Verdict(
            "stopped",
            f"the loss rose to {highest:.3g}, above "
            f"monitor.early_stopping.divergence_threshold={limit:g}; start anew with "
            f"optimization.optimizer.lr={half:g}",
        )
    if record.stale_epochs >= stopping.patience:
        return Verdict("converged", f"no improvement for {stopping.patience} epochs")
    return None
