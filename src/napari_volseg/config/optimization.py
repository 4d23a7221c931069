"""Settings of how long and how fast to learn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from napari_volseg.config.fields import PositiveInt, Section

__all__ = [
    "OptimizationConfig",
    "OptimizerConfig",
    "ScalerConfig",
    "SchedulerConfig",
]

Stage = tuple[PositiveInt, Annotated[float, Field(gt=0, le=1)]]


class OptimizerConfig(Section):
    """The optimizer."""

    name: Literal["AdamW", "SGD"] = "AdamW"
    """AdamW (Loshchilov & Hutter 2019) or SGD with momentum; norms and biases are not decayed."""
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Learning rate at the start, or at the end of the warm-up; SGD wants about ten times as much."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay, at the start where weight_decay_end is set."""
    weight_decay_end: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight decay at the end of the budget, reached along a straight line; not set keeps it."""
    betas: tuple[
        Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]
    ] = (0.9, 0.999)
    """AdamW: memory of the mean gradient and of its square."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD: memory of the gradient; 0 has none."""
    nesterov: bool = True
    """SGD: look ahead along the momentum (Nesterov 1983); without momentum it does nothing."""


class SchedulerConfig(Section):
    """How the learning rate changes."""

    name: Literal[
        "ReduceLROnPlateau", "warmup_cosine", "one_cycle", "stages", "constant"
    ] = "warmup_cosine"
    """Lower it when the score stalls, follow a cosine or one cycle to the end of the budget, go in stages, or keep it."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """ReduceLROnPlateau: each reduction multiplies the rate by this."""
    patience: Annotated[int, Field(ge=0)] = 50
    """ReduceLROnPlateau: epochs without improvement before a reduction."""
    threshold: Annotated[float, Field(ge=0)] = 1e-4
    """ReduceLROnPlateau: relative change that counts as improvement."""
    cooldown: Annotated[int, Field(ge=0)] = 0
    """ReduceLROnPlateau: epochs after a reduction that are not counted."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Lowest learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """warmup_cosine: steps over which the rate rises from near zero."""
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """one_cycle: share of the budget over which the rate rises, from a 25th (Smith & Topin 2019)."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (
        (30, 1e-4),
        (50, 5e-5),
        (20, 1e-5),
    )
    """stages: epochs and learning rate of each; under a time budget, shares of it."""


class ScalerConfig(Section):
    """How 16-mixed keeps small gradients from vanishing: the loss is scaled up."""

    init_scale: Annotated[float, Field(gt=0)] = 65536.0
    """Scale of the loss at the start."""
    growth_factor: Annotated[float, Field(gt=1)] = 2.0
    """After growth_interval finite steps the scale is multiplied by this."""
    backoff_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """After a gradient that is not finite the scale is multiplied by this."""
    growth_interval: PositiveInt = 2000
    """Finite steps in a row before the scale grows."""


class OptimizationConfig(Section):
    """How long and how fast to learn."""

    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    scaler: ScalerConfig = ScalerConfig()
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
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Memory of the running mean of the weights that is validated, shown and saved: 0.999 is usual, 0 keeps none."""
