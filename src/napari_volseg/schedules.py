"""How learning rate, momentum and weight decay change during a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, inf, pi

from napari_volseg.config import OptimizationConfig

__all__ = ["Schedule", "stages_notice"]

_CYCLE_START = 25.0
"""One cycle begins at its highest rate divided by this (Smith & Topin 2019)."""
_CYCLE_MOMENTUM = (0.85, 0.95)
"""Momentum at the highest rate of a cycle, and at its ends."""


@dataclass
class Schedule:
    """The rates of a step as a function of progress and of the scores so far.

    Its state is plain numbers, so a resumed run goes on exactly.

    Parameters
    ----------
    config
        Settings of optimizer, scheduler and budget.
    steps_per_epoch
        Steps of one epoch, by which stages are counted.
    """

    config: OptimizationConfig
    steps_per_epoch: int = 1
    shift: int = field(default=0, init=False)
    """Added to a step to count epochs, see `Record.shift`."""
    scale: float = field(default=1.0, init=False)
    """What plateaus have left of the rate."""
    rescue: float = field(default=1.0, init=False)
    """What failed steps have left of the rate; it undercuts `min_lr`."""
    best: float = field(default=inf, init=False)
    stalled: int = field(default=0, init=False)
    cooling: int = field(default=0, init=False)

    def lr(self, step: int, progress: float) -> float:
        """Return the learning rate of a step.

        Parameters
        ----------
        step
            Optimizer updates done so far.
        progress
            Share of the budget, of epochs or of minutes, that is used up.
        """
        planned = {
            "constant": self._constant,
            "ReduceLROnPlateau": self._plateau,
            "warmup_cosine": self._warmup_cosine,
            "one_cycle": self._one_cycle,
            "stages": self._stage,
        }[self.config.scheduler.name]
        return self.rescue * planned(step, min(1.0, progress))

    def weight_decay(self, progress: float) -> float:
        """Return the weight decay: a straight line over the budget."""
        start = self.config.optimizer.weight_decay
        end = self.config.optimizer.weight_decay_end
        if end is None:
            return start
        return start + (end - start) * min(1.0, progress)

    def momentum(self, progress: float) -> float | None:
        """Return the momentum of one cycle; None where the optimizer's own holds."""
        if self.config.scheduler.name != "one_cycle":
            return None
        low, high = _CYCLE_MOMENTUM
        rise = self.config.scheduler.rise
        if progress < rise:
            return _ease(high, low, progress / rise)
        return _ease(low, high, min(1.0, (progress - rise) / (1 - rise)))

    def end_epoch(self, loss: float, n_epochs: int = 1) -> bool:
        """Take note of a watched loss; True when the rate was lowered.

        Parameters
        ----------
        n_epochs
            Epochs since the last one.
        """
        settings = self.config.scheduler
        if settings.name != "ReduceLROnPlateau":
            return False
        margin = settings.threshold * abs(self.best) if self.best < inf else 0.0
        if loss < self.best - margin:
            self.best, self.stalled = loss, 0
        else:
            self.stalled += n_epochs
        if self.cooling:
            self.cooling, self.stalled = max(0, self.cooling - n_epochs), 0
        if self.stalled <= settings.patience:
            return False
        before = self.lr(0, 0)
        self.scale *= settings.factor
        self.stalled, self.cooling = 0, settings.cooldown
        return self.lr(0, 0) < before

    def forget(self) -> None:
        """Begin to watch anew, because losses do not compare with those before."""
        self.best, self.stalled = inf, 0

    def halve(self) -> None:
        """Halve the rate from here on, whatever the schedule."""
        self.rescue /= 2

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in _STATE}

    def load(self, state: dict[str, float]) -> None:
        """Go on from the state of a checkpoint."""
        for name in _STATE:
            setattr(self, name, state.get(name, getattr(self, name)))

    @property
    def _floor(self) -> float:
        """The lowest rate: one that starts below `min_lr` is not raised to it."""
        return min(self.config.scheduler.min_lr, self.config.optimizer.lr)

    def _constant(self, step: int, progress: float) -> float:
        return self.config.optimizer.lr

    def _plateau(self, step: int, progress: float) -> float:
        return max(self._floor, self.config.optimizer.lr * self.scale)

    def _warmup_cosine(self, step: int, progress: float) -> float:
        warm = min(1.0, (step + 1) / (self.config.scheduler.warmup_steps + 1))
        return warm * _ease(self.config.optimizer.lr, self._floor, progress)

    def _one_cycle(self, step: int, progress: float) -> float:
        settings, top = self.config.scheduler, self.config.optimizer.lr
        if progress < settings.rise:
            return _ease(top / _CYCLE_START, top, progress / settings.rise)
        fallen = (progress - settings.rise) / (1 - settings.rise)
        return _ease(top, self._floor, fallen)

    def _stage(self, step: int, progress: float) -> float:
        stages = self.config.scheduler.stages
        epoch = (step + self.shift) / self.steps_per_epoch
        if self.config.max_minutes is not None:
            epoch = max(epoch, progress * sum(n for n, _ in stages))
        for length, lr in stages:
            if epoch < length:
                return lr
            epoch -= length
        return stages[-1][1]


def stages_notice(config: OptimizationConfig) -> str | None:
    """Return what the user should know when stages and epochs do not add up."""
    n_epochs = sum(n for n, _ in config.scheduler.stages)
    if config.scheduler.name != "stages" or config.max_minutes is not None:
        return None
    if n_epochs == config.max_epochs:
        return None
    effect = (
        f"the last rate, {config.scheduler.stages[-1][1]:g}, holds for the rest"
        if n_epochs < config.max_epochs
        else "the last stages are cut off"
    )
    return (
        f"The stages of the learning rate last {n_epochs} epochs and the training "
        f"{config.max_epochs}: {effect}. Set optimization.max_epochs={n_epochs} to "
        "make them agree."
    )


_STATE = ("scale", "rescue", "best", "stalled", "cooling")


def _ease(start: float, end: float, share: float) -> float:
    """Return the point of half a cosine from `start` to `end`."""
    return end + (start - end) * 0.5 * (1 + cos(pi * share))
