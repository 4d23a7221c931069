"""The optimizer and how its learning rate falls."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, inf, pi
from typing import Any

import torch
from torch import nn

from napari_volseg.config import OptimizationConfig, SchedulerConfig

__all__ = ["Schedule", "build_optimizer", "set_learning_rate"]


def build_optimizer(
    network: nn.Module, config: OptimizationConfig
) -> torch.optim.Optimizer:
    """Return AdamW; norms and biases are not decayed."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.optimizer.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.optimizer.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@dataclass
class Schedule:
    """The learning rate as a function of progress and of the scores so far.

    Its state is plain numbers, so a resumed run goes on exactly.
    """

    config: SchedulerConfig
    base_lr: float
    scale: float = field(default=1.0, init=False)
    best: float = field(default=inf, init=False)
    stalled: int = field(default=0, init=False)

    def lr(self, step: int, progress: float) -> float:
        """Return the rate of a step.

        Parameters
        ----------
        step
            Optimizer updates done so far.
        progress
            Share of the budget, of epochs or of minutes, that is used up.
        """
        if self.config.name == "constant":
            return self.base_lr
        if self.config.name == "ReduceLROnPlateau":
            return max(self.config.min_lr, self.base_lr * self.scale)
        warm = min(1.0, (step + 1) / (self.config.warmup_steps + 1))
        fall = 0.5 * (1 + cos(pi * min(1.0, progress)))
        span = self.base_lr - self.config.min_lr
        return warm * (self.config.min_lr + span * fall)

    def end_epoch(self, loss: float) -> bool:
        """Take note of an epoch's watched loss; True when the rate was lowered."""
        if self.config.name != "ReduceLROnPlateau":
            return False
        margin = self.config.threshold * abs(self.best) if self.best < inf else 0.0
        if loss < self.best - margin:
            self.best, self.stalled = loss, 0
            return False
        self.stalled += 1
        if self.stalled <= self.config.patience:
            return False
        before = self.lr(0, 0)
        self.scale *= self.config.factor
        self.stalled = 0
        return self.lr(0, 0) < before

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {"scale": self.scale, "best": self.best, "stalled": self.stalled}

    def load(self, state: dict[str, float]) -> None:
        """Go on from the state of a checkpoint."""
        self.scale, self.best = state["scale"], state["best"]
        self.stalled = int(state["stalled"])
