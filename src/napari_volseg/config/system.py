"""Settings of the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from napari_volseg.config.fields import PositiveInt, Section

__all__ = ["SystemConfig", "TrainingSystemConfig"]

_AUTO_BATCH = 4


def _check_batch_size(value: object) -> object:
    """Say in one sentence what a batch size is; a union would say it twice."""
    if value == "auto":
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = 0.0
    if isinstance(value, bool) or number < 1 or number != int(number):
        raise ValueError("give an integer greater than or equal to 1, or auto")
    return int(number)


class TrainingSystemConfig(Section):
    """What a training takes of the machine."""

    num_gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs to train on, each with a batch of its own; 0 trains on the processor."""
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Indices of the GPUs to train on, as 'volseg doctor' lists them; not set takes the first num_gpus."""
    num_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes to train with on the processor, each with a batch of its own; pays on machines with many cores."""
    batch_size: Annotated[
        PositiveInt | Literal["auto"], BeforeValidator(_check_batch_size)
    ] = 4
    """Patches per batch and GPU; auto takes as many at a time as fit into memory."""
    num_workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Threads that prepare patches ahead of the network; 0 prepares them in between."""
    rank_timeout: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds without a sign of life after which one of several training processes is taken for hung and all are ended."""

    @property
    def patches_per_batch(self) -> int:
        """`batch_size` as a number, also before auto has been settled."""
        return _AUTO_BATCH if self.batch_size == "auto" else self.batch_size


class SystemConfig(Section):
    """The machine."""

    training: TrainingSystemConfig = TrainingSystemConfig()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes the first GPU, else the processor."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of all randomness."""
