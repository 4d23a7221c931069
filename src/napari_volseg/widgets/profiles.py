"""The values of the three maps along a line, or through the cursor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Profile", "axis_through", "sample_profile"]

_MAX_VOXELS = 2**24
"""Larger blocks around a slanted line are not read; the line is then shortened."""


@dataclass(frozen=True)
class Profile:
    """Maps along a line, as probabilities."""

    positions: NDArray[np.float64]
    """Distance from the start of the line."""
    values: Mapping[str, NDArray[np.float64]]


def sample_profile(
    maps: Mapping[str, Any],
    start: NDArray[np.float64],
    stop: NDArray[np.float64],
    voxel_size: NDArray[np.float64],
) -> Profile:
    """Return the maps along a line, by linear interpolation.

    Parameters
    ----------
    maps
        uint8 arrays (Z, Y, X) by role; lazy ones are read around the line only.
    start, stop
        Ends of the line in voxels z, y, x; the part outside the maps is left out.
    voxel_size
        Edge lengths, for the positions.
    """
    from scipy.ndimage import map_coordinates  # slow to import, so here: in a thread

    shape = np.array(next(iter(maps.values())).shape)
    n_points = max(2, int(np.abs(stop - start).max()) + 1)
    points = start + np.linspace(0, 1, n_points)[:, None] * (stop - start)
    points = points[((points >= -0.5) & (points <= shape - 0.5)).all(axis=1)]
    if not len(points):
        nothing = np.zeros(0)
        return Profile(nothing, dict.fromkeys(maps, nothing))
    points = np.clip(points, 0, shape - 1)
    low = np.floor(points.min(axis=0)).astype(int)
    high = np.ceil(points.max(axis=0)).astype(int) + 1
    while np.prod(high - low) > _MAX_VOXELS:
        points = points[: len(points) // 2]
        low = np.floor(points.min(axis=0)).astype(int)
        high = np.ceil(points.max(axis=0)).astype(int) + 1
    block = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    values = {
        role: map_coordinates(
            np.asarray(data[block], np.float32), (points - low).T, order=1
        ).astype(float)
        / 255
        for role, data in maps.items()
    }
    positions = np.linalg.norm((points - points[0]) * voxel_size, axis=1)
    return Profile(positions, values)


def axis_through(
    point: NDArray[np.float64], axis: int, shape: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the line through a point along a whole axis."""
    start, stop = np.round(point), np.round(point)
    start[axis], stop[axis] = 0, shape[axis] - 1
    return start, stop
