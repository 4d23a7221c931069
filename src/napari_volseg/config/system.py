"""Settings of the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_volseg.config.fields import PositiveInt, Section

__all__ = ["SystemConfig", "TrainingSystemConfig"]


class TrainingSystemConfig(Section):
    """What a training takes of the machine."""

    num_gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs to train on; one is used by this version."""
    batch_size: PositiveInt = 4
    """Patches per batch."""
    num_workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Threads that prepare patches ahead of the network; 0 prepares them in between."""


class SystemConfig(Section):
    """The machine."""

    training: TrainingSystemConfig = TrainingSystemConfig()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes the first GPU, else the processor."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all randomness."""
