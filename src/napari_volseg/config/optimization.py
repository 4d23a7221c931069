"""Settings of how long and how fast to learn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from napari_volseg.config.fields import PositiveInt, Section

__all__ = ["OptimizationConfig", "OptimizerConfig", "SchedulerConfig"]


class OptimizerConfig(Section):
    """The optimizer."""

    name: Literal["AdamW"] = "AdamW"
    """AdamW (Loshchilov & Hutter 2019); norms and biases are not decayed."""
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Learning rate at the start, or at the end of the warm-up."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay."""


class SchedulerConfig(Section):
    """How the learning rate falls."""

    name: Literal["ReduceLROnPlateau", "warmup_cosine", "constant"] = "warmup_cosine"
    """Lower it when the score stalls, follow a cosine to the end of the budget, or keep it."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """ReduceLROnPlateau: each reduction multiplies the rate by this."""
    patience: Annotated[int, Field(ge=0)] = 50
    """ReduceLROnPlateau: epochs without improvement before a reduction."""
    threshold: Annotated[float, Field(ge=0)] = 1e-4
    """ReduceLROnPlateau: relative change that counts as improvement."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Lowest learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """warmup_cosine: steps over which the rate rises from near zero."""


class OptimizationConfig(Section):
    """How long and how fast to learn."""

    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    max_epochs: PositiveInt = 200
    """Epochs after which training is complete."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes of training after which it is complete, whatever the epoch."""
    precision: Annotated[
        Literal["auto", "32", "bf16-mixed", "16-mixed"],
        BeforeValidator(lambda value: "32" if value == 32 else value),
    ] = "auto"
    """Number format; auto takes bf16 where the device is fast at it."""
    gradient_clip_val: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0 never clips."""
    accumulate_grad_batches: PositiveInt = 1
    """Batches whose gradients are added before one step."""
