"""Settings of how a volume is predicted and maps become instances."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_volseg.config.fields import PatchSize, PositiveInt, Section, Threshold

__all__ = ["InferenceConfig", "InstancesConfig"]


class InferenceConfig(Section):
    """How a volume is predicted."""

    window_size: PatchSize | None = None
    """Size (z, y, x) in voxels of the network's input; by default the training patch."""
    overlap: Annotated[float, Field(ge=0, lt=0.9)] = 0.25
    """Share of a window that its neighbours cover again."""
    batch_size: PositiveInt = 1
    """Windows per forward pass."""
    flips: Literal["none", "yx", "zyx"] = "none"
    """Average over mirrored inputs (test-time augmentation): 4 or 8 times the work."""
    backend: Literal["auto", "torch", "openvino"] = "auto"
    """What computes the network: the fastest that this machine has, measured where a prediction takes minutes; PyTorch; or OpenVINO, on processors (extra [openvino])."""
    match_voxel_size: bool = False
    """Show the network voxels of the size that it learnt from: the image is resampled on its way in, and the maps on their way out; PyTorch computes it."""
    skip_below: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Blocks without a voxel this bright are not predicted; 0 and 1 are the low and high percentile of the image, and 0 skips nothing."""
    memory_gb: Annotated[float, Field(gt=0)] = 2.0
    """Memory in GB that a prediction aims to stay within; with more, fewer windows are computed twice in large volumes, and instances of larger volumes are made in memory, which is faster."""


class InstancesConfig(Section):
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
