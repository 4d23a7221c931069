"""Settings of what is watched, stored and shown."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from napari_volseg.config.fields import PositiveInt, Section

__all__ = ["CheckpointConfig", "EarlyStoppingConfig", "MonitorConfig"]


class EarlyStoppingConfig(Section):
    """When to stop before the budget is used up."""

    enabled: bool = True
    """Stop early at all."""
    patience: PositiveInt = 100
    """Epochs without improvement before training stops."""
    min_delta: Annotated[float, Field(ge=0)] = 1e-4
    """Change of the watched value that counts as improvement."""
    threshold: Annotated[float, Field(ge=0)] = 0.02
    """Training loss below which training has converged."""
    divergence_threshold: Annotated[float, Field(gt=0)] | None = 100.0
    """Loss above which training is given up and the best model so far is kept; not set never."""


class CheckpointConfig(Section):
    """What is kept on the way."""

    every_minutes: Annotated[float, Field(gt=0)] = 1.0
    """Minutes of work that a crash may cost at most; more where saving takes over 2 % of them."""
    save_top_k: PositiveInt = 3
    """Numbered checkpoints to keep, beside best and last."""


class MonitorConfig(Section):
    """What is watched, stored and shown."""

    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    val_every_epochs: PositiveInt = 1
    """Epochs between two validations."""
    preview_every_epochs: Annotated[int, Field(ge=0)] = 1
    """Epochs between two previews; 0 makes none."""
    tensorboard: bool = True
    """Also write scalars and images for TensorBoard, where it is installed."""
