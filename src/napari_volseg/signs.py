"""What the curves of a training say, and what to change about it.

Pure arithmetic on the losses of epochs: no file, no clock, no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import OptimizationConfig

__all__ = ["REPEAT_AFTER", "Epoch", "Sign", "find_signs"]

REPEAT_AFTER = 100
"""Epochs after which the same sign is worth another word."""

_CLIP = 0.3
_WILD_EPOCHS = 12
_WILD_SWING = 0.25
_FLAT_EPOCHS = 30
_FLAT_GAIN = 0.01
_STUCK_EPOCHS = 100
_STUCK_LOSS = 0.5
_STUCK_SHARE = 0.75
_TREND_EPOCHS = 25
_BLOCK = 5
_CERTAIN = 5.0
"""Standard errors from zero at which a slope is no chance, however often one looks."""
_OVERFIT_RISE = 1.1
_SKIPPED_SHARE = 0.05
_GOOD = ((0.08, "it has converged"), (0.2, "excellent"), (0.5, "good"))

Curve = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Epoch:
    """The numbers of one epoch."""

    train: float
    """Mean total training loss."""
    val: float | None
    """Loss on the held-out voxels; None where none was computed."""
    lr: float
    skipped: float = 0.0
    """Share of its steps that were skipped because they were not finite."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that a curve says."""

    kind: str
    message: str
    level: Literal["info", "warning"] = "warning"


def find_signs(epochs: Sequence[Epoch], config: OptimizationConfig) -> list[Sign]:
    """Return the signs that the newest epoch completes.

    The warnings are those of people who train such networks: a loss that swings
    wildly, that stands still while the learning rate does too, that stays high, that
    rises on held-out voxels while it falls on the others, and steps that are not
    finite. Each message names the setting to change and its new value.

    Parameters
    ----------
    epochs
        All epochs so far, oldest first.
    config
        The settings the epochs were trained with.
    """
    if not epochs:
        return []
    found = (look(epochs, config) for look in _LOOKS)
    return [sign for sign in found if sign is not None]


def _skipped(epochs: Sequence[Epoch], config: OptimizationConfig) -> Sign | None:
    share = epochs[-1].skipped
    # Looking for its scale, 16-mixed skips some of the first steps: no warning.
    if share <= _SKIPPED_SHARE or len(epochs) == 1:
        return None
    return Sign(
        "skipped",
        f"{share:.0%} of the steps of this epoch were skipped because their gradient "
        f"was not finite: {_clip_advice(config)}.",
    )


def _wild(epochs: Sequence[Epoch], config: OptimizationConfig) -> Sign | None:
    train = _train(epochs)[-_WILD_EPOCHS:]
    if len(epochs) < _WILD_EPOCHS + 3 or train.size < _WILD_EPOCHS:
        return None
    steps = np.diff(train)
    swing = float(np.abs(steps).mean() / np.median(train))
    turns = float(np.mean(steps[1:] * steps[:-1] < 0))
    if swing < _WILD_SWING or turns < 0.5:
        return None
    return Sign(
        "oscillation",
        f"The training loss swings wildly, between {train.min():.2g} and "
        f"{train.max():.2g} in the last {_WILD_EPOCHS} epochs: halve the learning "
        f"rate ({_half(config)}) or add up more batches "
        "(optimization.accumulate_grad_batches="
        f"{2 * config.accumulate_grad_batches}).",
    )


def _flat(epochs: Sequence[Epoch], config: OptimizationConfig) -> Sign | None:
    settings = config.scheduler
    if settings.name in ("warmup_cosine", "one_cycle"):
        return None  # these lower the rate whatever the loss does
    if settings.name == "stages" and epochs[-1].lr > settings.stages[-1][1] * 1.001:
        return None  # the next stage will
    n = _FLAT_EPOCHS
    if settings.name == "ReduceLROnPlateau":
        n = max(n, settings.patience + settings.cooldown + 10)
    if len(epochs) < n:
        return None
    window = epochs[-n:]
    rate = window[-1].lr
    if rate < 0.999 * window[0].lr or rate <= 1.001 * settings.min_lr:
        return None
    train = _train(window)
    if train.size < n:
        return None
    before, now = train[: n // 3].mean(), train[-(n // 3) :].mean()
    if abs(before - now) > _FLAT_GAIN * before:
        return None
    remedy = (
        f"lower it ({_half(config)}) or let it fall by itself "
        "(optimization.scheduler.name=warmup_cosine)"
    )
    if settings.name == "ReduceLROnPlateau":
        remedy = (
            "raise optimization.scheduler.threshold to 0.01, so that it falls when "
            f"the loss hardly does, or lower it by hand ({_half(config)})"
        )
    return Sign(
        "plateau",
        f"The training loss has stood at {now:.2g} for {n} epochs and the learning "
        f"rate was not lowered: {remedy}.",
    )


def _stuck(epochs: Sequence[Epoch], config: OptimizationConfig) -> Sign | None:
    train = _train(epochs)
    if len(epochs) < _STUCK_EPOCHS or train.size < _STUCK_EPOCHS:
        return None
    now = float(train[-10:].mean())
    if now < _STUCK_LOSS or now < _STUCK_SHARE * train[0]:
        return None
    return Sign(
        "stuck",
        f"After {len(epochs)} epochs the training loss is still {now:.2g}: check that "
        "images and labels lie on each other, then try half the learning rate "
        f"({_half(config)}); {_clip_advice(config)}.",
    )


def _overfit(epochs: Sequence[Epoch], config: OptimizationConfig) -> Sign | None:
    both = [(e.train, e.val) for e in epochs if e.val is not None]
    if len(both) < 2 * _TREND_EPOCHS:
        return None
    train, val = np.array(both, dtype=np.float64).T
    if not (np.isfinite(train).all() and np.isfinite(val).all()):
        return None
    recent = slice(-_TREND_EPOCHS, None)
    now, lowest = float(np.median(val[-_BLOCK:])), float(_block_medians(val).min())
    falls = train[-_BLOCK:].mean() < train[recent][:_BLOCK].mean()
    grows = _trend((val - train)[recent]) > _CERTAIN
    rises = _trend(val[recent]) > _CERTAIN and now > _OVERFIT_RISE * lowest
    if not (falls and grows and rises):
        return None
    return Sign(
        "overfitting",
        f"The loss falls on the training voxels ({train[-1]:.2g}) but rises on "
        f"the held-out ones ({now:.2g}, at best {lowest:.2g}): "
        "annotate more, raise the probabilities under augmentation, or stop; the "
        "best model so far is kept.",
    )


def _good(epochs: Sequence[Epoch], config: OptimizationConfig) -> Sign | None:
    loss = epochs[-1].train
    before = min((e.train for e in epochs[:-1]), default=np.inf)
    for level, word in _GOOD:
        if loss < level <= before:
            return Sign(
                f"below {level:g}",
                f"The training loss is below {level:g}: {word}.",
                "info",
            )
    return None


_LOOKS: tuple[Callable[[Sequence[Epoch], OptimizationConfig], Sign | None], ...] = (
    _skipped,
    _wild,
    _flat,
    _stuck,
    _overfit,
    _good,
)


def _train(epochs: Sequence[Epoch]) -> Curve:
    """Return the training losses that are finite."""
    losses = np.array([e.train for e in epochs], dtype=np.float64)
    finite: Curve = losses[np.isfinite(losses)]
    return finite


def _block_medians(values: Curve) -> Curve:
    """Return the medians of five epochs each."""
    n = len(values) // _BLOCK
    medians: Curve = np.median(values[-n * _BLOCK :].reshape(n, _BLOCK), axis=1)
    return medians


def _trend(values: Curve) -> float:
    """Return the slope of a straight line through a curve, in standard errors."""
    (slope, _), covariance = np.polyfit(np.arange(len(values)), values, 1, cov=True)
    return float(slope / max(np.sqrt(covariance[0, 0]), 1e-12))


def _half(config: OptimizationConfig) -> str:
    return f"optimization.optimizer.lr={config.optimizer.lr / 2:g}"


def _clip_advice(config: OptimizationConfig) -> str:
    clip = config.gradient_clip_val
    if clip == 0 or clip > _CLIP:
        return f"clip the gradient more (optimization.gradient_clip_val={_CLIP:g})"
    return f"the gradient is clipped at {clip:g} already; halve {_half(config)}"
