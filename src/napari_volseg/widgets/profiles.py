"""The values of the three maps along a line, or through the cursor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.qt.threading import create_worker
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

__all__ = ["Profile", "Profiler", "axis_through", "sample_profile"]

_MAX_VOXELS = 2**24
"""Larger blocks around a slanted line are not read; the line is then shortened."""


@dataclass(frozen=True)
class Profile:
    """Maps along a line, as probabilities."""

    positions: NDArray[np.float64]
    """Distance from the start of the line."""
    values: Mapping[str, NDArray[np.float64]]


class Profiler(QObject):
    """Reads profiles in a thread, the newest wish only."""

    profiled = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._wish: tuple[Any, ...] | None = None
        self._is_busy = False

    def ask(
        self,
        maps: Mapping[str, Any],
        start: NDArray[np.float64],
        stop: NDArray[np.float64],
        voxel_size: NDArray[np.float64],
    ) -> None:
        """Read the maps from `start` to `stop` (voxels z, y, x) soon."""
        self._wish = (dict(maps), start, stop, voxel_size)
        if not self._is_busy:
            self._begin()

    def _begin(self) -> None:
        wish, self._wish = self._wish, None
        if wish is None:
            return
        self._is_busy = True
        worker = create_worker(
            sample_profile, *wish, _start_thread=False, _ignore_errors=True
        )
        worker.returned.connect(self.profiled)
        worker.finished.connect(self._end)
        worker.start()

    def _end(self) -> None:
        self._is_busy = False
        self._begin()


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
