"""The whole configuration of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from napari_volseg.config.augmentation import AugmentationConfig
from napari_volseg.config.automatic import AutomaticConfig
from napari_volseg.config.data import DataConfig
from napari_volseg.config.fields import Section
from napari_volseg.config.inference import InferenceConfig, InstancesConfig
from napari_volseg.config.model import ModelConfig
from napari_volseg.config.monitor import MonitorConfig
from napari_volseg.config.optimization import OptimizationConfig
from napari_volseg.config.system import SystemConfig

__all__ = ["Config"]


class Config(Section):
    """The whole configuration of a run."""

    experiment_name: Annotated[str, Field(min_length=1, max_length=100)] = "volseg"
    """Name of the run; its folder is named after it."""
    description: str = ""
    """One sentence on what a preset is for."""
    automatic: AutomaticConfig = AutomaticConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    system: SystemConfig = SystemConfig()
    monitor: MonitorConfig = MonitorConfig()
    inference: InferenceConfig = InferenceConfig()
    instances: InstancesConfig = InstancesConfig()

    @model_validator(mode="after")
    def _check_sizes(self) -> Config:
        for key in ("input_size", "output_size"):
            size = getattr(self.model, key)
            if size is not None and size != self.data.patch_size:
                raise ValueError(
                    f"model.{key} {list(size)} must equal data.patch_size: set it to "
                    f"{list(self.data.patch_size)}, or leave it unset"
                )
        depth = self.model.depth
        for key, n in (("down_factors", depth - 1), ("kernel_sizes", depth)):
            given = getattr(self.model, key)
            if given is not None and len(given) != n:
                raise ValueError(
                    f"model.{key} needs {n} entries for the {depth} levels of "
                    f"{self.model.architecture}: {_of_length(given, n)}leave it unset"
                )
        return self


def _of_length(sizes: Sequence[tuple[int, int, int]], n: int) -> str:
    """Advise sizes cut or, by repeating the last, lengthened to `n` entries."""
    if not sizes or not n:
        return ""
    nearest = [list(size) for size in (*sizes, *[sizes[-1]] * n)[:n]]
    return f"set it to {nearest}, or "
