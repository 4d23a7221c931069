"""Thresholds as whole numbers, so that maps of uint8 are compared exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError

__all__ = ["Levels", "check_maps", "foreground_levels", "seed_levels", "select"]


@dataclass(frozen=True, slots=True)
class Levels:
    """Bounds on the three maps, all inclusive: ``mask >= mask_min`` and so on.

    For a map of whole numbers, ``map / 255 > t`` is ``map >= floor(255 t) + 1``,
    ``map / 255 < t`` is ``map <= ceil(255 t) - 1`` and ``map / 255 >= t`` is
    ``map >= ceil(255 t)``.
    """

    mask_min: int
    boundary_max: int
    distance_min: int


def _scaled(threshold: float) -> float:
    """Return 255 t, free of the error that binary fractions bring (0.6 * 255)."""
    return round(threshold * 255, 6)


def _above(threshold: float) -> int:
    return math.floor(_scaled(threshold)) + 1


def _below(threshold: float) -> int:
    return math.ceil(_scaled(threshold)) - 1


def seed_levels(config: InstancesConfig) -> Levels:
    """Return the bounds of a seed: mask and distance above, boundary below."""
    return Levels(
        _above(config.seed_mask),
        _below(config.seed_boundary),
        _above(config.seed_distance),
    )


def foreground_levels(config: InstancesConfig) -> Levels:
    """Return the bounds of an object: mask above, boundary below, distance from."""
    return Levels(
        _above(config.mask),
        _below(config.boundary),
        math.ceil(_scaled(config.distance)),
    )


def check_maps(maps_CZYX: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the maps as a contiguous array, without a copy where it is one.

    Raises
    ------
    DataError
        If they are not three channels of uint8.
    """
    maps = np.asarray(maps_CZYX)
    if maps.ndim != 4 or maps.shape[0] != 3 or maps.dtype != np.uint8:
        raise DataError(
            f"the maps have the shape {maps.shape} and type {maps.dtype}: they must be "
            "the channels mask, boundary and distance (C, Z, Y, X) as uint8"
        )
    return np.ascontiguousarray(maps)


def select(maps_CZYX: NDArray[np.uint8], levels: Levels) -> NDArray[np.bool_]:
    """Return where all three maps lie within the bounds, shape (Z, Y, X)."""
    chosen_ZYX = np.empty(maps_CZYX.shape[1:], np.bool_)
    _select(
        maps_CZYX.reshape(3, -1),
        levels.mask_min,
        levels.boundary_max,
        levels.distance_min,
        chosen_ZYX.reshape(-1),
    )
    return chosen_ZYX


@njit(nogil=True, cache=True)
def _select(
    maps: NDArray[np.uint8],
    mask_min: int,
    boundary_max: int,
    distance_min: int,
    chosen: NDArray[np.bool_],
) -> None:
    mask, boundary, distance = maps[0], maps[1], maps[2]
    for i in range(chosen.size):
        chosen[i] = (
            (mask[i] >= mask_min)
            & (boundary[i] <= boundary_max)
            & (distance[i] >= distance_min)
        )
