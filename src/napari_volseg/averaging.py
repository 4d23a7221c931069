"""A running mean of the weights, which is steadier than the last ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["WeightAverage"]


class WeightAverage:
    """An exponential moving average of a network (EMA; Tarvainen & Valpola 2017).

    The memory grows with the steps done, (1 + n) / (10 + n) up to `decay`, so the
    average of a short training is not held back by its random first weights.
    Running statistics of norms are averaged like weights: they are those of the
    averaged network as nearly as can be had without extra passes over the data.

    Parameters
    ----------
    network
        The network that is trained; it is copied.
    decay
        Share of the old average that a step keeps, in (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._average = AveragedModel(
            network, multi_avg_fn=self._blend, use_buffers=True
        )
        self._average.requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The network with averaged weights."""
        network: nn.Module = self._average.module
        return network

    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        self._average.update_parameters(network)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "n_averaged": int(self._average.n_averaged),
            "network": self.network.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self._average.n_averaged.fill_(state["n_averaged"])
        self.network.load_state_dict(state["network"])

    def _blend(self, averaged: Any, current: Any, n_averaged: Tensor | int) -> None:
        n = int(n_averaged)
        if not torch.is_floating_point(averaged[0]):
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)  # counters of batches
            return
        decay = min(self._decay, (1 + n) / (10 + n))
        get_ema_multi_avg_fn(decay)(averaged, current, n)  # type: ignore[no-untyped-call]
