"""The optimizer, and which of a network's weights it decays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from napari_volseg.config import OptimizationConfig
from napari_volseg.errors import DataError

__all__ = ["build_optimizer", "load_optimizer", "set_rates"]

_FUSED_DEVICES = ("cpu", "cuda", "mps")


def build_optimizer(
    network: nn.Module, config: OptimizationConfig
) -> torch.optim.Optimizer:
    """Return the optimizer of a network; norms and biases are not decayed.

    The first parameter group is decayed, the second is not. Both algorithms are
    fused into one kernel where PyTorch has that for the device of the network.
    """
    settings = config.optimizer
    weights = list(network.parameters())
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in weights if p.ndim > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = _can_fuse(weights)
    if settings.name == "AdamW":
        return torch.optim.AdamW(
            groups, lr=settings.lr, betas=settings.betas, fused=fused
        )
    return torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        fused=fused,
    )


def set_rates(
    optimizer: torch.optim.Optimizer,
    lr: float,
    weight_decay: float,
    momentum: float | None = None,
) -> None:
    """Set what a schedule decides of the next step.

    Parameters
    ----------
    weight_decay
        Of the weights that are decayed; norms and biases stay free of it.
    momentum
        Momentum of SGD, or first beta of AdamW; None leaves it.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None and group["momentum"] > 0:
            group["momentum"] = momentum
    optimizer.param_groups[0]["weight_decay"] = weight_decay


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over the memory of an optimizer, but keep the settings of this one.

    Raises
    ------
    DataError
        If the state is that of another kind of optimizer.
    """
    kept = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    if ("betas" in kept[0]) != ("betas" in state["param_groups"][0]):
        raise DataError(
            f"optimization.optimizer.name is {type(optimizer).__name__}, but the "
            "checkpoint is of another optimizer: set it back in config.yaml, or start "
            "a new run"
        )
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, kept, strict=True):
        group.update(settings)


def _can_fuse(weights: Iterable[nn.Parameter]) -> bool:
    return all(
        p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in weights
    )
