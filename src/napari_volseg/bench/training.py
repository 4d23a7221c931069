"""How fast a network is trained."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from napari_volseg.profiling import LoadingProfile

__all__ = ["Training", "read_profile"]


@dataclass(frozen=True, slots=True)
class Training:
    """How fast a network is trained."""

    steps_per_minute: float
    patches_per_minute: float
    mvox_per_minute: float
    """Million voxels of patches."""
    ready_steps_per_minute: float
    """The same if patches lay ready."""
    lost_to_data: float
    """Share of the time."""
    limit: Literal["network", "data", "processors"]
    """``processors``: preparing patches takes them from the network."""
    advice: str


def read_profile(profile: LoadingProfile) -> Training:
    """Return what a profile says of a minute; its best number of threads counts."""
    trial = next(t for t in profile.trials if t.threads == profile.threads)
    steps = 60_000 / (trial.wait_ms + trial.step_ms)
    patches = steps * profile.batch_size
    limits: dict[str, Literal["network", "data", "processors"]] = {
        "ready": "network",
        "slow": "data",
        "contended": "processors",
    }
    return Training(
        steps_per_minute=steps,
        patches_per_minute=patches,
        mvox_per_minute=patches * prod(profile.patch_size) / 1e6,
        ready_steps_per_minute=60_000 / profile.ready_step_ms,
        lost_to_data=trial.lost,
        limit=limits[profile.verdict],
        advice=profile.advice,
    )
