"""The whole configuration of a run."""

from __future__ import annotations

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
                    f"model.{key} {list(size)} must equal data.patch_size "
                    f"{list(self.data.patch_size)}: change one of them"
                )
        depth = self.model.depth
        factors, kernels = self.model.down_factors, self.model.kernel_sizes
        if factors is not None and len(factors) != depth - 1:
            raise ValueError(
                f"model.down_factors needs {depth - 1} entries for the {depth} levels "
                f"of {self.model.architecture}"
            )
        if kernels is not None and len(kernels) != depth:
            raise ValueError(
                f"model.kernel_sizes needs {depth} entries for the {depth} levels "
                f"of {self.model.architecture}"
            )
        return self
