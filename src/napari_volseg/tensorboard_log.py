"""The scalars and images of a training, for people who use TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TensorBoardLog"]

_NAMES = ("mask", "boundary", "distance")


class TensorBoardLog:
    """Writes to ``tensorboard/`` of a run; does nothing where it is not installed."""

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._folder = folder
        self._enabled = enabled and find_spec("tensorboard") is not None
        self._writer: Any = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars under their names."""
        if self._open():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def losses(self, step: int, total: float, parts: Sequence[float]) -> None:
        """Add an epoch's losses under the names that PyTorch Connectomics uses."""
        named = {f"train_loss_{i}": value for i, value in enumerate(parts)}
        self.scalars(step, {"train_loss_total_epoch": total, **named})

    def maps(self, step: int, maps_CZYX: NDArray[np.uint8]) -> None:
        """Add the middle slice of the three maps."""
        if self._open():
            middle = maps_CZYX.shape[1] // 2
            for name, map_ZYX in zip(_NAMES, maps_CZYX, strict=True):
                self._writer.add_image(f"preview/{name}", map_ZYX[None, middle], step)

    def close(self) -> None:
        """Finish writing."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> bool:
        if self._enabled and self._writer is None:
            # A second to import: after the first epoch, not before the first step.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        return self._enabled
