"""The scalars and images of a training, for people who use TensorBoard.

Names are those of PyTorch Connectomics where it has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.targets import Targets

__all__ = ["TensorBoardLog"]

_NAMES = ("mask", "boundary", "distance")
_UNKNOWN = 128
"""Grey that stands for a truth that is not known."""


class TensorBoardLog:
    """Writes to ``tensorboard/`` of a run; does nothing where it is not installed.

    A disk that refuses a line ends the log, never the training.
    """

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._folder = folder
        self.enabled = enabled and find_spec("tensorboard") is not None
        """Whether what is logged goes anywhere."""
        self._writer: Any = None

    def epoch(
        self,
        step: int,
        total: float,
        parts: Sequence[float],
        lr: float,
        grad_norm: float,
    ) -> None:
        """Add the mean losses of an epoch, and the last step's rate and gradient."""
        named = {f"train_loss_{i}": value for i, value in enumerate(parts)}
        rest = {"lr": lr, "grad_norm": grad_norm}
        self._scalars(step, {"train_loss_total_epoch": total, **named, **rest})

    def validation(
        self,
        step: int,
        metrics: Mapping[str, float],
        train_loss: float | None = None,
    ) -> None:
        """Add the scores of the held-out voxels as ``val_…``.

        With the training loss of the epoch, ``train_val_gap`` says by how much the
        validation loss is above it.
        """
        named = {f"val_{name}": value for name, value in metrics.items()}
        if train_loss is not None and isfinite(train_loss):
            named["train_val_gap"] = metrics["loss"] - train_loss
        self._scalars(step, named)

    def images(
        self,
        step: int,
        image_ZYX: NDArray[np.uint8],
        maps_CZYX: NDArray[np.uint8],
        truth: Targets,
    ) -> None:
        """Add the middle slice of a box: image, and each map beside its truth.

        Parameters
        ----------
        image_ZYX
            What the network sees, 0 to 255.
        maps_CZYX
            Mask, boundary and distance as predicted, 255 being 1.
        truth
            The same as they should be; shown grey where it is not known.
        """
        middle = image_ZYX.shape[0] // 2
        pictures = {"preview/input": image_ZYX[middle]}
        for i, name in enumerate(_NAMES):
            known = truth.valid_CZYX[i, middle]
            true = np.where(known, truth.values_CZYX[i, middle], _UNKNOWN)
            pictures[f"preview/{name}"] = maps_CZYX[i, middle]
            pictures[f"preview/{name}_truth"] = true.astype(np.uint8)

        def add(writer: Any) -> None:
            for name, picture_YX in pictures.items():
                writer.add_image(name, picture_YX[np.newaxis], step)

        self._write(step, add)

    def close(self) -> None:
        """Finish writing."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        def add(writer: Any) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        self._write(step, add)

    def _write(self, step: int, add: Callable[[Any], None]) -> None:
        if not self.enabled:
            return
        try:
            if self._writer is None:
                # A second to import: after the first epoch, not before the first step.
                from torch.utils.tensorboard import SummaryWriter

                # What a run logged after the checkpoint it resumes from is void.
                self._writer = SummaryWriter(str(self._folder), purge_step=step)
            add(self._writer)
            self._writer.flush()
        except OSError:
            self.enabled = False
