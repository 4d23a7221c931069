"""One channel of a batch as the terms of a loss see it.

Shape suffixes: B batch, Z/Y/X space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ChannelMaps", "average_pool"]

_SMALLEST_EDGE = 4
"""Maps are not averaged along an axis that would become shorter than this."""
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class ChannelMaps:
    """A predicted channel and its target, float32 (B, Z, Y, X).

    Logits and targets are 0 where the target is not known, whatever was given.
    """

    logits: Tensor
    probability: Tensor
    """Sigmoid of the logits, so one half where not known."""
    target: Tensor
    """Values in [0, 1]."""
    known: Tensor
    """1 where the target is known, 0 elsewhere; averaged maps have values between."""
    surface: float = 0.0
    """Targets above this lie inside an object."""

    @classmethod
    def of(
        cls, logits: Tensor, target: Tensor, valid: Tensor, surface: float = 0.0
    ) -> ChannelMaps:
        """Return the maps with everything erased that is not known."""
        logits = torch.where(valid, logits, 0.0)
        target = torch.where(valid, target, 0.0)
        return cls(logits, torch.sigmoid(logits), target, valid.float(), surface)

    def averaged(self) -> ChannelMaps:
        """Return the maps averaged over the known ones of 2 × 2 × 2 voxels.

        Axes that are too short are left as they are.
        """
        factor = [2 if n >= 2 * _SMALLEST_EDGE else 1 for n in self.known.shape[1:]]
        known = average_pool(self.known, factor)
        share = known.clamp(min=_EPSILON)
        probability = average_pool(self.probability * self.known, factor) / share
        target = average_pool(self.target * self.known, factor) / share
        return ChannelMaps(
            torch.logit(probability.clamp(_EPSILON, 1 - _EPSILON)),
            probability,
            target,
            known,
            self.surface,
        )


def average_pool(values_BZYX: Tensor, factor: list[int]) -> Tensor:
    """Return the means of blocks; the rest at the end of an axis is a block too."""
    pooled: Tensor = functional.avg_pool3d(
        values_BZYX[:, None], factor, factor, ceil_mode=True, count_include_pad=False
    )
    return pooled[:, 0]
