"""Gradient checkpointing: forget a stage's inner maps and compute them again.

After Chen et al. 2016 (arXiv:1604.06174), by `torch.utils.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputed"]


def recomputed(stage: nn.Module, x: Tensor) -> Tensor:
    """Return `stage(x)`, keeping only `x` for the gradient.

    Losses, gradients, dropout and running statistics are those of `stage(x)`.
    """
    if not torch.is_grad_enabled():
        plain: Tensor = stage(x)
        return plain
    out: Tensor = checkpoint(
        stage,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _frozen_statistics(stage)),
    )
    return out


@contextmanager
def _frozen_statistics(stage: nn.Module) -> Iterator[None]:
    """Keep batch norms from counting the same batch a second time."""
    kept = [
        (module, module.momentum, module.num_batches_tracked)
        for module in stage.modules()
        if isinstance(module, _BatchNorm)
    ]
    for module, _, _ in kept:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, momentum, n_batches in kept:
            module.momentum, module.num_batches_tracked = momentum, n_batches
