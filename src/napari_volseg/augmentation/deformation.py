"""Turn, zoom and bend a crop: where each of its voxels comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_volseg.geometry import Size
from napari_volseg.volume import VoxelSize

__all__ = ["Deformation", "draw_deformation", "is_square_in_plane"]

_ZOOM = (0.8, 1.25)
_BEND = (0.05, 0.15)
"""Deviation of the displacement, as a share of the distance of its control points;
small enough that nothing folds over."""
_FLAT = 1.5
"""Of voxels deeper than wide by this factor, slices stay slices."""


@dataclass(frozen=True, slots=True)
class Deformation:
    """Where each voxel of a patch comes from.

    Either within its own slice, with one map for all slices or one for each, or
    anywhere in space.
    """

    size: Size
    offsets_ZYXA: NDArray[np.float32]
    """Source of each voxel, relative to the centre, in voxels. The last axis is
    (y, x) or (z, y, x); Z is 1 when all slices are alike."""

    @property
    def in_plane(self) -> bool:
        """Whether slices stay slices."""
        return bool(self.offsets_ZYXA.shape[-1] == 2)

    def reach(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the lowest and highest source relative to the centre (z, y, x)."""
        parts = [self.offsets_ZYXA[..., a] for a in range(self.offsets_ZYXA.shape[-1])]
        low = np.floor([part.min() for part in parts]).astype(np.int64) - 1
        high = np.ceil([part.max() for part in parts]).astype(np.int64) + 2
        if self.in_plane:
            first = -(self.size[0] // 2)
            low = np.concatenate([[first], low])
            high = np.concatenate([[first + self.size[0]], high])
        return low, high

    def grid(
        self, centre: NDArray[np.integer[Any]], shape_ZYX: Sequence[int]
    ) -> Tensor:
        """Return where voxels come from in a part of the volume, for `sample`.

        Parameters
        ----------
        centre
            Where the centre lies in the part (z, y, x), in voxels.
        shape_ZYX
            Shape of the part; of an in-plane deformation it has the slices of the
            patch and no others.
        """
        n_axes = self.offsets_ZYXA.shape[-1]
        # From -1 to 1, the last axis first, as torch wants.
        scale = 2 / np.maximum(1, np.array(shape_ZYX[-n_axes:]) - 1)
        shift = np.asarray(centre)[-n_axes:] * scale - 1
        grid = self.offsets_ZYXA * scale.astype(np.float32)
        grid += shift.astype(np.float32)
        grid = torch.from_numpy(grid[..., ::-1].copy())
        return grid if self.in_plane else grid[None]

    def sample(
        self,
        array_CZYX: NDArray[Any],
        grid: Tensor,
        mode: str,
        padding: str = "reflection",
    ) -> NDArray[np.float32]:
        """Return the deformed patch of a part of the volume.

        Parameters
        ----------
        grid
            From `grid`, for the shape of the array.
        mode, padding
            As for `torch.nn.functional.grid_sample`.
        """
        n_channels, depth, *plane = array_CZYX.shape
        values = torch.from_numpy(array_CZYX.astype(np.float32))
        each_slice = self.in_plane and len(grid) > 1
        if each_slice:
            values = values.transpose(0, 1)
        elif self.in_plane:
            # All slices and channels turn alike, so one grid serves them.
            values = values.reshape(1, n_channels * depth, *plane)
        else:
            values = values[None]
        result = functional.grid_sample(
            values, grid, mode=mode, padding_mode=padding, align_corners=True
        )
        if each_slice:
            result = result.transpose(0, 1)
        patch: NDArray[np.float32] = result.reshape(n_channels, *self.size).numpy()
        return patch


def is_square_in_plane(voxel_size: VoxelSize) -> bool:
    """Return whether slices may be turned by any angle."""
    return bool(np.isclose(voxel_size[1], voxel_size[2], rtol=0.05))


def draw_deformation(
    size: Size,
    voxel_size: VoxelSize,
    chances: Mapping[str, float],
    rng: Generator,
    *,
    in_plane: bool = False,
) -> Deformation | None:
    """Draw a turn with zoom within the slice, and a bend; None when there is neither.

    The turn needs voxels that are square within the slice. The bend is a smooth
    random displacement, equally smooth in nm along all axes. Of voxels deeper than
    wide it moves within slices only.

    Parameters
    ----------
    in_plane
        Slices stay slices whatever the voxels, because targets were made slice by
        slice.
    """
    turns = (
        rng.random() < chances["affine"]
        and is_square_in_plane(voxel_size)
        and min(size[1:]) > 1
    )
    angle, zoom = 0.0, 1.0
    if turns:
        angle, zoom = rng.uniform(-np.pi, np.pi), rng.uniform(*_ZOOM)
    bends = (
        chances["elastic"] > 0
        and rng.random() < chances["elastic"]
        and min(size[1:]) > 1
    )
    if not (turns or bends):
        return None
    offsets = _turned(size, angle, zoom)
    if bends:
        is_deep = voxel_size[0] > _FLAT * min(voxel_size[1:])
        bend = _bend(size, voxel_size, rng, in_plane or is_deep or size[0] == 1)
        if bend.shape[-1] == 3:
            z = np.arange(size[0], dtype=np.float32) - size[0] // 2
            z = np.broadcast_to(z[:, None, None, None], (*size, 1))
            offsets = np.concatenate([z, np.broadcast_to(offsets, (*size, 2))], axis=-1)
        offsets = offsets + bend
    return Deformation(size, offsets)


def _turned(size: Size, angle: float, zoom: float) -> NDArray[np.float32]:
    """Return where the voxels of a turned slice come from, shape (1, Y, X, 2)."""
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    # The centre of a patch is the voxel n // 2 when nothing turns it.
    turned = angle != 0 or zoom != 1
    y, x = np.meshgrid(
        *(np.arange(n) - ((n - 1) / 2 if turned else n // 2) for n in size[1:]),
        indexing="ij",
    )
    offsets = np.stack([cos * y - sin * x, sin * y + cos * x], axis=-1)
    return offsets[np.newaxis].astype(np.float32)


def _bend(
    size: Size, voxel_size: VoxelSize, rng: Generator, in_plane: bool
) -> NDArray[np.float32]:
    """Return a smooth displacement in voxels, shape (Z, Y, X, 2 or 3)."""
    edges = np.array(voxel_size) / min(voxel_size[1:])
    spacing = max(8.0, min(size[1:]) / 4)
    # Lengths of the patch in distances of control points.
    lengths = [(n - 1) * edge / spacing for n, edge in zip(size, edges, strict=True)]
    points = [max(2, round(length) + 1) for length in lengths]
    n_axes = 2 if in_plane else 3
    control = rng.standard_normal((n_axes, *points), dtype=np.float32)
    control *= np.float32(spacing * rng.uniform(*_BEND))
    for axis, length in enumerate(lengths, start=1):
        if length < 1:  # the patch ends before the second point
            first = control.take([0], axis)
            control = first + (control - first) * np.float32(length)
    bend = functional.interpolate(
        torch.from_numpy(control)[None], size, mode="trilinear", align_corners=True
    )[0].numpy()
    bend /= edges[3 - n_axes :, None, None, None].astype(np.float32)
    return np.moveaxis(bend, 0, -1)
