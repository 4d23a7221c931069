"""What is settled about a training before its first step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from napari_volseg.automatic import Choice
from napari_volseg.config import Config
from napari_volseg.devices import Compute
from napari_volseg.fingerprint import Fingerprint
from napari_volseg.geometry import Box, Size
from napari_volseg.networks import Pyramid
from napari_volseg.sampling import CachePlan
from napari_volseg.volume import VoxelSize

__all__ = ["HeldOut", "TrainPlan", "plan_from_json"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A part of the annotation to validate on."""

    pair: int
    """Index of the training or validation pair."""
    box: Box


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """The user's configuration, resolved against the data and the machine."""

    config: Config
    compute: Compute
    in_channels: int
    voxel_size: VoxelSize
    """Of the first volume; the model is for this voxel size."""
    patch_size: Size
    pyramid: Pyramid
    boundary: Literal["3d", "2d"]
    distance: Literal["3d", "2d"]
    steps_per_epoch: int
    held_out: tuple[HeldOut, ...]
    guard: Size
    n_instances: int
    n_held_out_instances: int
    """Instances that reach into what is held out."""
    annotated_share: float
    """Share of all training voxels that is annotated."""
    memory_bytes: int
    """Estimated peak of memory on the device."""
    cache: CachePlan
    """Where the training volumes are kept."""
    notices: tuple[str, ...]
    """What the user should know before it starts."""
    gpus: tuple[int, ...] = ()
    """Index of the GPU of each process; empty without CUDA."""
    n_ranks: int = 1
    """Processes that train together."""
    micro_batches: int = 1
    """Forward passes of one step, of all processes together."""
    batch_is_auto: bool = False
    """Whether the batch is to be made smaller until it fits into memory."""
    choices: tuple[Choice, ...] = ()
    """Settings that were derived, each with its reason."""
    fingerprint: Fingerprint | None = None
    """What they were derived from."""
    is_settled: bool = False
    """Whether what only a trial can tell has been tried; see `settling.settle`."""

    def to_json(self) -> str:
        """Return the whole plan, for another process; see `plan_from_json`."""
        return TypeAdapter(TrainPlan).dump_json(self).decode()

    @property
    def device_in_words(self) -> str:
        """Where it trains, for people: ``cpu, float32``, or ``2 × cuda, …``."""
        several = f"{self.n_ranks} × " if self.n_ranks > 1 else ""
        return f"{several}{self.compute}"

    @property
    def patches_per_step(self) -> int:
        """Patches that one step sees, in all processes together."""
        return self.micro_batches * self.config.system.training.patches_per_batch

    @property
    def total_steps(self) -> int:
        """Steps of all epochs; a time budget may end sooner."""
        return self.steps_per_epoch * self.config.optimization.max_epochs

    def summary(self) -> dict[str, Any]:
        """Return the plan without the configuration, as plain JSON values."""
        fields = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "config"
        }
        if self.fingerprint is None:
            del fields["choices"], fields["fingerprint"]
        else:
            fields["choices"] = [dataclasses.asdict(c) for c in self.choices]
            fields["fingerprint"] = self.fingerprint.summary()
        fields["compute"] = dataclasses.asdict(self.compute)
        fields["cache"] = dataclasses.asdict(self.cache)
        fields["pyramid"] = dataclasses.asdict(self.pyramid)
        fields["held_out"] = [dataclasses.asdict(h) for h in self.held_out]
        return {
            **fields,
            "total_steps": self.total_steps,
            "patches_per_step": self.patches_per_step,
        }


def plan_from_json(text: str) -> TrainPlan:
    """Return the plan that `TrainPlan.to_json` wrote."""
    return TypeAdapter(TrainPlan).validate_json(text)
