"""Every setting of a run, once: default, bounds and the sentence that explains it.

The docstring under a field is its tooltip, its ``--help`` line and its row in
the documentation. Section and key names follow PyTorch Connectomics.
"""

from napari_volseg.config.augmentation import AugmentationConfig
from napari_volseg.config.automatic import AutomaticConfig
from napari_volseg.config.data import DataConfig, TargetsConfig
from napari_volseg.config.inference import InferenceConfig, InstancesConfig
from napari_volseg.config.loading import (
    apply_overrides,
    build_config,
    dump_config,
    load_config,
    preset_names,
    preset_summary,
    read_settings,
)
from napari_volseg.config.loss import LOSS_TERMS, LossConfig
from napari_volseg.config.model import ModelConfig
from napari_volseg.config.monitor import MonitorConfig
from napari_volseg.config.optimization import (
    OptimizationConfig,
    OptimizerConfig,
    ScalerConfig,
    SchedulerConfig,
)
from napari_volseg.config.pytc import why_left_out
from napari_volseg.config.system import SystemConfig, TrainingSystemConfig
from napari_volseg.config.tree import Config
from napari_volseg.config.yaml_text import parse_tree, parse_value, read_text

__all__ = [
    "LOSS_TERMS",
    "AugmentationConfig",
    "AutomaticConfig",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "InstancesConfig",
    "LossConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimizationConfig",
    "OptimizerConfig",
    "ScalerConfig",
    "SchedulerConfig",
    "SystemConfig",
    "TargetsConfig",
    "TrainingSystemConfig",
    "apply_overrides",
    "build_config",
    "dump_config",
    "load_config",
    "parse_tree",
    "parse_value",
    "preset_names",
    "preset_summary",
    "read_settings",
    "read_text",
    "why_left_out",
]
