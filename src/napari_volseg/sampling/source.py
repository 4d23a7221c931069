"""Draw patches from prepared volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from napari_volseg.augmentation import Deformation, Patch, augment, draw_deformation
from napari_volseg.config import Config, DataConfig
from napari_volseg.geometry import Size
from napari_volseg.sampling.changes import Focus
from napari_volseg.sampling.places import Places
from napari_volseg.sampling.prepared import PreparedVolume
from napari_volseg.volume import normalise

__all__ = ["Batch", "PatchSource"]

_TRIES = 10
"""Patches drawn in search of one that holds annotated voxels."""

Stage = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one forward pass."""

    image_BCZYX: Tensor
    targets_BCZYX: Tensor
    """Values in [0, 1]."""
    valid_BCZYX: Tensor

    def pinned(self) -> Batch:
        """Return a copy in page-locked memory; needs a GPU."""
        return Batch(
            self.image_BCZYX.pin_memory(),
            self.targets_BCZYX.pin_memory(),
            self.valid_BCZYX.pin_memory(),
        )


def _unwatched(stage: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class PatchSource:
    """Draws augmented patches from prepared volumes."""

    volumes: Sequence[PreparedVolume]
    config: Config
    patch_size: Size
    stage: Stage = _unwatched
    """Entered around each stage of the work, with its name: ``read``, ``crop``,
    ``augment`` and ``collate``."""
    foci: Sequence[Focus] = ()
    """Places that get a share of the patches; of what is left, the next takes its."""
    _weights: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        weights = _weights(self.volumes, self.config.data)
        object.__setattr__(self, "_weights", weights)

    def draw(self, step: int, place: int) -> Patch:
        """Return the patch of one place in the batch of one step.

        A patch that holds no annotated voxel is drawn again.
        """
        rng = np.random.default_rng([self.config.system.seed, step, place])
        for _ in range(_TRIES):
            patch = self._draw(step, rng)
            if patch.valid_CZYX.any():
                break
        return patch

    def batch(self, step: int, micro_batch: int) -> Batch:
        """Return the tensors of one forward pass, on the CPU."""
        size = self.config.system.training.patches_per_batch
        patches = [self.draw(step, micro_batch * size + i) for i in range(size)]
        with self.stage("collate"):
            targets = np.stack([p.targets_CZYX for p in patches])
            return Batch(
                torch.from_numpy(np.stack([p.image_CZYX for p in patches])),
                torch.from_numpy(targets.astype(np.float32) / 255),
                torch.from_numpy(np.stack([p.valid_CZYX for p in patches])),
            )

    def _draw(self, step: int, rng: Generator) -> Patch:
        chances = self.config.augmentation.chances
        volume, place = self._choose(step, rng)
        centre = self._centre(volume, place, rng)
        deformation = draw_deformation(
            self.patch_size,
            volume.voxel_size,
            chances,
            rng,
            in_plane=volume.in_plane,
        )
        if deformation is None:
            patch = self._crop(volume, centre)
        else:
            patch = self._deform(volume, centre, deformation)
        with self.stage("augment"):
            return augment(
                patch, chances, volume.voxel_size, rng, in_plane=volume.in_plane
            )

    def _choose(
        self, step: int, rng: Generator
    ) -> tuple[PreparedVolume, NDArray[np.int32]]:
        """Return a volume, and the voxel in it that the patch is centred near."""
        for focus in self.foci:
            if focus.counts_at(step) and rng.random() < focus.share:
                index = int(rng.integers(len(focus.places_N3)))
                return self.volumes[int(focus.volume_N[index])], focus.places_N3[index]
        volume = self.volumes[int(rng.choice(len(self.volumes), p=self._weights))]
        return volume, choose_place(volume.places, self.config.data, rng)

    def _centre(
        self, volume: PreparedVolume, place: NDArray[np.int32], rng: Generator
    ) -> NDArray[np.int64]:
        reach = np.array(self.patch_size) // 4
        jitter = rng.integers(-reach, reach + 1)
        margin = np.array([before for before, _ in volume.margins])
        centre: NDArray[np.int64] = place + jitter + margin
        return centre

    def _crop(self, volume: PreparedVolume, centre: NDArray[np.int64]) -> Patch:
        size = np.array(self.patch_size)
        start = np.clip(centre - size // 2, 0, np.array(volume.shape_ZYX) - size)
        with self.stage("read"):
            image, targets, valid = volume.read(start.tolist(), (start + size).tolist())
        with self.stage("crop"):
            return Patch(normalise(image, volume.range_C2), targets, valid)

    def _deform(
        self,
        volume: PreparedVolume,
        centre: NDArray[np.int64],
        deformation: Deformation,
    ) -> Patch:
        """Crop with a turn, zoom or bend.

        Mask and boundary keep their values 0 and 1. So does the distance where it is
        0 and where it is largest, because it is relative to the depth of an object
        and a zoom scales both.
        """
        shape = np.array(volume.shape_ZYX)
        size = np.array(self.patch_size)
        centre = np.clip(centre, 0, shape - 1)
        if deformation.in_plane:
            half = size[0] // 2
            centre[0] = np.clip(centre[0], half, shape[0] - size[0] + half)
        low, high = deformation.reach()
        start = np.clip(centre + low, 0, shape - 1)
        stop = np.clip(centre + high, start + 1, shape)
        with self.stage("read"):
            image, targets, valid = volume.read(start.tolist(), stop.tolist())
        with self.stage("crop"):
            grid = deformation.grid(centre - start, valid.shape[1:])
            known = deformation.sample(valid, grid, "nearest", "zeros") > 0.5
            image = normalise(image, volume.range_C2)
            crisp = deformation.sample(targets[:2], grid, "nearest")
            smooth = deformation.sample(targets[2:], grid, "bilinear")
            return Patch(
                deformation.sample(image, grid, "bilinear"),
                np.rint(np.concatenate([crisp, smooth])).astype(np.uint8),
                known,
            )


def choose_place(
    places: Places, config: DataConfig, rng: Generator
) -> NDArray[np.int32]:
    """Draw the voxel that a patch is centred near."""
    if (
        config.boundary_aware > 0
        and rng.random() < config.boundary_aware
        and len(places.boundary_N3)
    ):
        return _one_of(places.boundary_N3, rng)
    if not (rng.random() < config.foreground and places.n_objects):
        return _one_of(places.anywhere_N3, rng)
    if config.rare_instances > 0 and rng.random() < config.rare_instances:
        members = places.classes[int(rng.integers(len(places.classes)))]
        index = int(members[int(rng.integers(len(members)))])
        return _one_of(
            places.objects_N3[places.starts_M[index] : places.starts_M[index + 1]], rng
        )
    return _one_of(places.objects_N3, rng)


def _one_of(places_N3: NDArray[np.int32], rng: Generator) -> NDArray[np.int32]:
    place: NDArray[np.int32] = places_N3[int(rng.integers(len(places_N3)))]
    return place


def _weights(
    volumes: Sequence[PreparedVolume], config: DataConfig
) -> NDArray[np.float64]:
    """Return the probability of each volume."""
    sizes = {
        "annotated": [v.places.n_annotated for v in volumes],
        "foreground": [v.places.n_foreground for v in volumes],
        "equal": [1] * len(volumes),
    }[config.volume_weights]
    weights: NDArray[np.float64] = np.array(sizes, dtype=np.float64)
    if not weights.any():
        weights = np.ones(len(volumes))
    weights /= weights.sum()
    return weights
