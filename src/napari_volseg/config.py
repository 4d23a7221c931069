"""Every setting of a run, once: default, bounds and the sentence that explains it.

The docstring under a field is its tooltip, its ``--help`` line and its row in
the documentation. Section and key names follow PyTorch Connectomics.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from napari_volseg.errors import DataError

__all__ = [
    "Config",
    "InstancesConfig",
    "apply_overrides",
    "build_config",
    "dump_config",
    "load_config",
    "preset_names",
    "preset_summary",
]

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(ge=0, le=1.1)]
PatchSize = tuple[PositiveInt, PositiveInt, PositiveInt]
PadSize = tuple[
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
]
VoxelSize = tuple[
    Annotated[float, Field(gt=0)],
    Annotated[float, Field(gt=0)],
    Annotated[float, Field(gt=0)],
]
Factor = tuple[
    Annotated[int, Field(ge=1, le=4)],
    Annotated[int, Field(ge=1, le=4)],
    Annotated[int, Field(ge=1, le=4)],
]


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Sources = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True
    )


class TargetsConfig(_Section):
    """How training targets are made from labels."""

    boundary: Literal["auto", "3d", "2d"] = "auto"
    """Boundary between neighbours in space (3d) or within each slice (2d); auto takes 2d for voxels over three times deeper than wide and for annotation on single slices."""
    distance: Literal["auto", "3d", "2d"] = "auto"
    """Distance to the object's surface in space (3d) or within each slice (2d); auto takes 2d only for annotation on single slices."""


class DataConfig(_Section):
    """What a run learns from."""

    train_image: Sources = ()
    """Training images: paths or globs, path[:dataset][slices]."""
    train_label: Sources = ()
    """Instance labels of the training images, in the same order."""
    train_mask: Sources = ()
    """Masks of the annotated region of each training image; none means everywhere."""
    val_image: Sources = ()
    """Images for validation; without them a part of the training images is held out."""
    val_label: Sources = ()
    """Instance labels of the validation images."""
    val_mask: Sources = ()
    """Masks of the annotated region of each validation image."""
    annotated: Literal["everywhere", "painted_slices", "painted_voxels"] = "everywhere"
    """Which voxels count as annotated: all, all of every slice with paint, or only painted voxels."""
    background_id: Annotated[int, Field(ge=0)] = 0
    """Label id painted to mean background; 0 when background is simply unpainted."""
    voxel_size: VoxelSize | None = None
    """Voxel size (z, y, x) in nm, in place of what the files say."""
    patch_size: PatchSize = (32, 128, 128)
    """Size (z, y, x) in voxels of the crops the network learns from."""
    pad_size: PadSize = (0, 0, 0)
    """Reflected margin (z, y, x) in voxels around each training image."""
    percentiles: tuple[Fraction, Fraction] = (0.05, 0.95)
    """Quantiles of the whole image that are mapped to 0 and 1; values beyond are compressed."""
    iter_num_per_epoch: PositiveInt = 1280
    """Patches drawn per epoch."""
    foreground: Fraction = 0.7
    """Share of patches centred on a labelled object; the rest fall anywhere annotated."""
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.15
    """Share of the annotation held out for validation when no validation images are given."""
    targets: TargetsConfig = TargetsConfig()

    @model_validator(mode="after")
    def _check_percentiles(self) -> DataConfig:
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("percentiles must rise, for instance [0.05, 0.95]")
        return self


class AugmentationConfig(_Section):
    """Random changes that each patch goes through; a number is a probability."""

    flip: Fraction = 0.5
    """Mirror along each axis."""
    rotate90: Fraction = 0.5
    """Quarter turns in planes whose voxels and patch are square."""
    affine: Fraction = 0.2
    """Turn within the slice by any angle and zoom by up to a fifth."""
    intensity: Fraction = 0.5
    """Brightness, contrast and gamma."""
    noise: Fraction = 0.2
    """Gaussian noise."""
    blur: Fraction = 0.15
    """Gaussian blur within the slice."""
    missing_section: Fraction = 0.1
    """Blank one or two slices of the image."""
    shifted_section: Fraction = 0.1
    """Shift the image and the labels of all slices after a random one."""


class ModelConfig(_Section):
    """The network and its loss."""

    architecture: Literal["rsunet", "monai_unet", "mednext"] = "rsunet"
    """Residual symmetric U-Net for anisotropic volumes, MONAI's U-Net (fastest), or MedNeXt."""
    filters: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=7)] = (
        24,
        48,
        96,
        192,
    )
    """Feature maps at each level, finest first; their number is the depth."""
    rsunet_norm: Literal["batch", "group", "instance"] = "batch"
    """Normalisation of feature maps in RSUNet."""
    down_factors: tuple[Factor, ...] | None = None
    """Downsampling (z, y, x) below each level; by default chosen from the voxel size."""
    kernel_sizes: tuple[Factor, ...] | None = None
    """Convolution kernel (z, y, x) of each level; by default chosen from the voxel size."""
    mednext_size: Literal["S", "B", "M", "L"] = "S"
    """Size of MedNeXt: 5.6, 10.5, 17.6 or 61.8 million parameters."""
    deep_supervision: bool = False
    """Also train coarser outputs of the network, the finest counting most."""
    input_size: PatchSize | None = None
    """Must equal data.patch_size; accepted for PyTorch Connectomics files."""
    output_size: PatchSize | None = None
    """Must equal data.patch_size; accepted for PyTorch Connectomics files."""
    loss_weights: tuple[
        Annotated[float, Field(ge=0)],
        Annotated[float, Field(ge=0)],
        Annotated[float, Field(ge=0)],
    ] = (1.0, 1.0, 3.0)
    """Weight of the mask, boundary and distance losses."""


class OptimizerConfig(_Section):
    """The optimizer."""

    name: Literal["AdamW"] = "AdamW"
    """AdamW (Loshchilov & Hutter 2019); norms and biases are not decayed."""
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Learning rate at the start, or at the end of the warm-up."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay."""


class SchedulerConfig(_Section):
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


class OptimizationConfig(_Section):
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


class TrainingSystemConfig(_Section):
    """What a training takes of the machine."""

    num_gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs to train on; one is used by this version."""
    batch_size: PositiveInt = 4
    """Patches per batch."""
    num_workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Threads that prepare patches ahead of the network; 0 prepares them in between."""


class SystemConfig(_Section):
    """The machine."""

    training: TrainingSystemConfig = TrainingSystemConfig()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes the first GPU, else the processor."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all randomness."""


class EarlyStoppingConfig(_Section):
    """When to stop before the budget is used up."""

    enabled: bool = True
    """Stop early at all."""
    patience: PositiveInt = 100
    """Epochs without improvement before training stops."""
    min_delta: Annotated[float, Field(ge=0)] = 1e-4
    """Change of the watched value that counts as improvement."""
    threshold: Annotated[float, Field(ge=0)] = 0.02
    """Training loss below which training has converged."""


class CheckpointConfig(_Section):
    """What is kept on the way."""

    every_minutes: Annotated[float, Field(gt=0)] = 1.0
    """Minutes of work that a crash may cost at most."""
    save_top_k: PositiveInt = 3
    """Numbered checkpoints to keep, beside best and last."""


class MonitorConfig(_Section):
    """What is watched, stored and shown."""

    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    val_every_epochs: PositiveInt = 1
    """Epochs between two validations."""
    preview_every_epochs: Annotated[int, Field(ge=0)] = 1
    """Epochs between two previews; 0 makes none."""
    tensorboard: bool = True
    """Also write scalars and images for TensorBoard, where it is installed."""


class InferenceConfig(_Section):
    """How a volume is predicted."""

    window_size: PatchSize | None = None
    """Size (z, y, x) in voxels of the network's input; by default the training patch."""
    overlap: Annotated[float, Field(ge=0, lt=0.9)] = 0.25
    """Share of a window that its neighbours cover again."""
    batch_size: PositiveInt = 1
    """Windows per forward pass."""
    flips: Literal["none", "yx", "zyx"] = "none"
    """Average over mirrored inputs (test-time augmentation): 4 or 8 times the work."""


class InstancesConfig(_Section):
    """How maps become instances; every threshold can be moved afterwards."""

    seed_distance: Threshold = 0.3
    """A seed has a distance above this."""
    seed_depth: Threshold = 0.12
    """Two peaks of distance make two seeds if the valley between them is at least this deep; above 1 they never do."""
    seed_boundary: Threshold = 0.5
    """A seed has a boundary below this."""
    seed_mask: Threshold = 0.5
    """A seed has a mask above this."""
    mask: Threshold = 0.5
    """An object reaches as far as its mask is above this."""
    boundary: Threshold = 1.1
    """An object reaches as far as its boundary is below this; above 1 the boundary does not count."""
    distance: Threshold = 0.0
    """An object reaches as far as its distance is at least this."""
    min_seed_size: Annotated[int, Field(ge=0)] = 8
    """Seeds with fewer voxels are dropped."""
    min_size: Annotated[int, Field(ge=0)] = 30
    """Instances with fewer voxels are dropped."""


class Config(_Section):
    """The whole configuration of a run."""

    experiment_name: Annotated[str, Field(min_length=1, max_length=100)] = "volseg"
    """Name of the run; its folder is named after it."""
    description: str = ""
    """One sentence on what a preset is for."""
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
        depth = len(self.model.filters)
        factors, kernels = self.model.down_factors, self.model.kernel_sizes
        if factors is not None and len(factors) != depth - 1:
            raise ValueError(
                f"model.down_factors needs {depth - 1} entries for {depth} filters"
            )
        if kernels is not None and len(kernels) != depth:
            raise ValueError(
                f"model.kernel_sizes needs {depth} entries for {depth} filters"
            )
        return self


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    folder = resources.files("napari_volseg") / "presets"
    return sorted(
        Path(entry.name).stem
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def preset_summary(name: str) -> str:
    """Return the sentence that says what a preset is for."""
    return str(_read_tree(name).get("description", ""))


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a preset or YAML file.

    Parameters
    ----------
    name
        Name of a preset, or path of a YAML file.
    overrides
        Dotted settings such as ``system.training.batch_size=8``; values are YAML.

    Raises
    ------
    DataError
        For an unknown preset, file, key or value; an unknown key names the
        nearest known one.
    """
    return build_config(apply_overrides(_read_tree(name), overrides), where=str(name))


def build_config(tree: Mapping[str, Any], where: str = "configuration") -> Config:
    """Validate a nested mapping; errors name the key and `where` it stands.

    Raises
    ------
    DataError
        If a key is unknown or a value out of bounds.
    """
    _check_keys(tree, Config, "", where)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(
            part for part in map(str, problem["loc"]) if not part.startswith("function")
        )
        message = problem["msg"].removeprefix("Value error, ")
        value = f" (it is {problem['input']!r})" if key else ""
        raise DataError(
            f"{where}: {key + ': ' if key else ''}{message}{value}"
        ) from None


def apply_overrides(
    tree: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """Return the tree with dotted ``key=value`` settings applied; values are YAML."""
    result = _copy(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise DataError(
                f"'{override}' is not a setting: write it as section.key=value, "
                "for instance system.training.batch_size=8"
            )
        try:
            value = yaml.safe_load(text) if text else None
        except yaml.YAMLError:
            value = text
        _put(result, key.split("."), _number(value), override)
    return result


def dump_config(config: Config) -> str:
    """Return the whole resolved configuration as YAML."""
    tree = config.model_dump(mode="json")
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _read_tree(name: str | Path) -> dict[str, Any]:
    path = Path(name).expanduser()
    if str(name) in preset_names():
        text = (
            resources.files("napari_volseg") / "presets" / f"{name}.yaml"
        ).read_text("utf-8")
    elif path.suffix in {".yaml", ".yml"}:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read the configuration file {path}: {error}"
            ) from None
    else:
        near = difflib.get_close_matches(str(name), preset_names(), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise DataError(
            f"there is no preset '{name}': {hint}presets are "
            f"{', '.join(preset_names())}; a YAML file works too"
        )
    try:
        tree = _numbers(yaml.safe_load(text) or {})
    except (yaml.YAMLError, RecursionError) as error:
        where = str(error).replace("\n", " ")
        raise DataError(f"{name} is not valid YAML: {where}") from None
    if not isinstance(tree, dict):
        raise DataError(
            f"{name} must be a mapping of sections such as data: and model:"
        )
    return tree


def _check_keys(
    tree: Mapping[str, Any], section: type[BaseModel], prefix: str, where: str
) -> None:
    for key, value in tree.items():
        field = section.model_fields.get(str(key))
        if field is None:
            raise DataError(_unknown_key(_first_leaf(f"{prefix}{key}", value), where))
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, Mapping):
                raise DataError(
                    f"{where}: {prefix}{key} is a section, give its keys as "
                    f"{prefix}{key}.{next(iter(kind.model_fields))}=…"
                )
            _check_keys(value, kind, f"{prefix}{key}.", where)


def _first_leaf(key: str, value: object) -> str:
    while isinstance(value, Mapping) and value:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    return key


def _unknown_key(key: str, where: str) -> str:
    known = _dotted_keys(Config)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:
        leaf = key.rsplit(".", 1)[-1]
        leaves = {name.rsplit(".", 1)[-1]: name for name in known}
        near = [leaves[n] for n in difflib.get_close_matches(leaf, leaves, n=1)]
    hint = f"did you mean '{near[0]}'?" if near else "see 'volseg config quick'"
    return f"{where}: there is no setting '{key}'; {hint}"


def _dotted_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _dotted_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _put(tree: dict[str, Any], path: Sequence[str], value: object, text: str) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise DataError(f"'{text}': {part} is not a section")
    tree[path[-1]] = value


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copy(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
    }


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; people mean a number."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value
