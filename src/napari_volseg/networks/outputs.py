"""MONAI's networks with the output form of ours: a tuple of logits, finest first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FinestFirst", "FinestLast", "WithHeads"]


class FinestFirst(nn.Module):
    """A network that returns logits, or a sequence of them with the finest first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, C, Z, Y, X), finest first."""
        out: Any = self.network(image_BCZYX)
        return tuple(out) if isinstance(out, (list, tuple)) else (out,)


class FinestLast(nn.Module):
    """A network that returns a sequence of logits, the best of them last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, C, Z, Y, X), best first; only those when not training."""
        out: list[Tensor] = self.network(image_BCZYX)
        return tuple(reversed(out)) if self.training else (out[-1],)


class WithHeads(nn.Module):
    """The body of MONAI's DynUNet, which leaves coarser logits in a list.

    DynUNet itself holds every block twice and enlarges the coarser logits without
    interpolation, so only its body and its last layer are taken.
    """

    def __init__(self, body: nn.Module, head: nn.Module, coarser: list[Tensor]) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self._coarser = coarser
        """The list that the layers of `body` write into."""

    def forward(self, image_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, C, Z, Y, X), finest first; only those when not training."""
        finest = self.head(self.body(image_BCZYX))
        coarser = list(self._coarser) if self.training else []
        # Graphs kept beyond the step would hold its memory and forbid copies.
        self._coarser[:] = [torch.empty(0)] * len(self._coarser)
        return (finest, *coarser)
