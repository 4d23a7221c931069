"""Find a learning rate by raising it step by step (Smith 2017, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from napari_volseg.errors import DataError
from napari_volseg.learner import Learner
from napari_volseg.planning import TrainPlan
from napari_volseg.preparing import prepare_patches
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import batches
from napari_volseg.schedules import Schedule

__all__ = ["RateCurve", "explore_rates", "read_curve"]

_MEMORY = 0.8
"""Of the running mean that tells when the loss has exploded."""
_EXPLODED = 4.0
_FEWEST = 10
_LEAST_FALL = 0.05


@dataclass(frozen=True, slots=True)
class RateCurve:
    """Losses at rising learning rates, and what they suggest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float
    """The rate at which the loss fell fastest, to two digits."""
    lowest: float
    """The rate at which the loss was lowest: above it, training is unstable."""


@dataclass
class _Ramp(Schedule):
    """A rate that rises by the same factor at every step."""

    first: float = 1e-6
    last: float = 1.0
    n_steps: int = 100

    def lr(self, step: int, progress: float) -> float:
        """Return the learning rate of a step."""
        share = step / max(1, self.n_steps - 1)
        return float(self.first * (self.last / self.first) ** share)


def explore_rates(
    plan: TrainPlan,
    pairs: Sequence[TrainingPair],
    folder: Path,
    *,
    n_steps: int = 100,
    first: float = 1e-6,
    last: float = 1.0,
) -> Iterator[tuple[float, float]]:
    """Train a new network at rising rates, until the loss explodes.

    It begins like a training, with the weights of `model.initial_weights` if any.

    Parameters
    ----------
    plan, pairs
        As for `training.train`; everything but the schedule is as in a training.
    folder
        Where arrays go that memory does not hold; not a run folder.
    n_steps
        Steps from the first rate to the last.

    Yields
    ------
    rate, loss
        Of each step.
    """
    without_average = plan.config.optimization.model_copy(update={"ema_decay": 0.0})
    plan = replace(
        plan, config=plan.config.model_copy(update={"optimization": without_average})
    )
    learner = Learner(plan, begin=True)
    ramp = _Ramp(without_average, first=first, last=last, n_steps=n_steps)
    learner.schedule = ramp
    stream = batches(
        prepare_patches(plan, pairs, folder),
        0,
        range(plan.micro_batches),
        plan.config.system.training.num_workers,
    )
    mean = lowest = None
    with closing(stream):  # type: ignore[type-var]  # batches() is a generator
        for step in range(n_steps):
            rate = ramp.lr(step, 0.0)
            try:
                loss, _ = learner.learn(next(stream))
            except FloatingPointError:
                return
            if not isfinite(loss):
                return
            yield rate, loss
            mean = loss if mean is None else _MEMORY * mean + (1 - _MEMORY) * loss
            lowest = mean if lowest is None else min(lowest, mean)
            if step > _FEWEST and mean > _EXPLODED * lowest:
                return


def read_curve(rates: Sequence[float], losses: Sequence[float]) -> RateCurve:
    """Return the rate that a curve of losses suggests.

    The suggestion is where the smoothed loss falls fastest over the logarithm of the
    rate, before its minimum.

    Raises
    ------
    DataError
        If there are too few steps, or the loss falls at no rate.
    """
    if len(losses) < _FEWEST:
        raise DataError(
            f"the loss was not finite any more after {len(losses)} steps: look for "
            "extreme values in the images, or set optimization.precision=32"
        )
    smoothed: NDArray[np.float64] = gaussian_filter1d(
        np.asarray(losses, dtype=np.float64), max(1.0, len(losses) / 30), mode="nearest"
    )
    bottom = int(smoothed.argmin())
    top = float(smoothed[: bottom + 1].max())
    if bottom < 2 or top - smoothed[bottom] < _LEAST_FALL * abs(top):
        raise DataError(
            "the loss falls at no learning rate: check that the labels lie on the "
            "image, or try more steps (--steps)"
        )
    slope = np.gradient(smoothed[: bottom + 1], np.log(rates[: bottom + 1]))
    best = float(rates[int(slope.argmin())])
    return RateCurve(
        tuple(rates),
        tuple(losses),
        tuple(smoothed.tolist()),
        float(f"{best:.1e}"),
        float(f"{rates[bottom]:.1e}"),
    )
