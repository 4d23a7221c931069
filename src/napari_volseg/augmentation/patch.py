"""A training patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Patch"]


@dataclass(frozen=True, slots=True)
class Patch:
    """A crop with what is to be learnt from it."""

    image_CZYX: NDArray[np.float32]
    """Normalised intensities, about 0 to 1."""
    targets_CZYX: NDArray[np.uint8]
    """Mask, boundary, distance × 255."""
    valid_CZYX: NDArray[np.bool_]
    """True where the target is known."""

    def map(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Patch:
        """Apply one spatial change to all three arrays."""
        return Patch(
            change(self.image_CZYX), change(self.targets_CZYX), change(self.valid_CZYX)
        )
