"""From a gradient to new weights: clip it, check it, step, average."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import Any

import torch
from torch import nn

from napari_volseg.averaging import WeightAverage
from napari_volseg.config import OptimizationConfig
from napari_volseg.optimizers import build_optimizer, load_optimizer, set_rates

__all__ = ["Rates", "Updater", "mend_statistics"]

Rates = tuple[float, float, float | None]
"""Learning rate, weight decay, and momentum where the schedule decides it."""


class Updater:
    """An optimizer with its scale of the loss and the average of its weights.

    Parameters
    ----------
    network
        The network, whose gradient is clipped and whose weights are averaged.
    loss
        The loss; its own weights, if any, are optimized too.
    config
        The settings.
    device, precision
        As of `devices.Compute`.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        config: OptimizationConfig,
        device: str,
        precision: str,
    ) -> None:
        self._network = network
        self._config = config
        self.optimizer = build_optimizer(nn.ModuleList([network, loss]), config)
        self.average = self._new_average()
        self.scaler = torch.amp.GradScaler(
            device, enabled=precision == "16", **config.scaler.model_dump()
        )
        self.grad_norm = 0.0
        """Norm of the last gradient, before it was clipped."""

    @property
    def is_searching(self) -> bool:
        """Whether 16-mixed may still find a scale of the loss of at least 1.

        While it does, it skips steps without being in trouble.
        """
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1

    def apply(self, loss: float, rates: Rates, in_all: Callable[[bool], bool]) -> bool:
        """Change the weights by the gradient they hold; return whether it was finite.

        A gradient that is not, in any of the processes that train together, changes
        no weight in any of them.

        Parameters
        ----------
        loss
            Of the step. It must be finite too.
        in_all
            Returns whether something holds in all processes.
        """
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self._network.parameters(), self._config.gradient_clip_val or inf
        )
        self.grad_norm = float(norm)
        finite = in_all(isfinite(self.grad_norm) and isfinite(loss))
        if finite:
            set_rates(self.optimizer, *rates)
            self.scaler.step(self.optimizer)
            if self.average:
                self.average.update(self._network)
        else:
            mend_statistics(self._network)
        # After a gradient that was not finite, this lowers the scale.
        self.scaler.update()
        return finite

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "average": self.average.state() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint, whose weights the network has.

        Raises
        ------
        DataError
            If the checkpoint is of another kind of optimizer.
        """
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average and state.get("average"):
            self.average.load(state["average"])
        else:  # it may have been switched on since
            self.average = self._new_average()
        if state["scaler"]:  # empty when the precision needed none
            self.scaler.load_state_dict(state["scaler"])

    def _new_average(self) -> WeightAverage | None:
        decay = self._config.ema_decay
        return WeightAverage(self._network, decay) if decay else None


def mend_statistics(network: nn.Module) -> None:
    """Start anew where a bad batch has left its mark in the running statistics."""
    for module in network.modules():
        mean = getattr(module, "running_mean", None)
        if isinstance(mean, torch.Tensor):
            variance = module.running_var
            if not bool((torch.isfinite(mean) & torch.isfinite(variance)).all()):  # type: ignore[arg-type]
                module.reset_running_stats()  # type: ignore[operator]
