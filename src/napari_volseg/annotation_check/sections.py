"""Checks of the image: duplicated, blank, saturated and shifted slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.registration import phase_cross_correlation

from napari_volseg.annotation_check.findings import Finding
from napari_volseg.volume import Volume

__all__ = ["check_sections"]

Slice = NDArray[np.float32]

_SAMPLE_EDGE = 512
"""Slices are compared in a central square of this many pixels."""
_ALIKE = 1e-3
"""Slices that differ by less than this share of their contrast are one."""
_SATURATED_SHARE = 0.2
_SATURATED_TIMES = 3.0
_SHIFT_PIXELS = 3.0
_SHIFT_GAIN = 0.1
"""Correlation that moving a slice has to gain before it counts as shifted."""
_SHIFT_ALIKE = 0.3
"""Correlation that it has to reach: noise fits noise somewhere by chance."""


def check_sections(image: Volume) -> Iterator[Finding]:
    """Yield the slices of an image that look wrong.

    Reads two slices at a time. Neighbouring slices are compared in their first
    channel, in a central square.
    """
    depth, height, width = image.shape_ZYX
    place, size = (height // 2, width // 2), height * width
    edges = _extremes(image)
    shares = np.zeros((2, depth))
    lengths = np.zeros(depth)
    shifts: list[tuple[int, NDArray[np.float64], float]] = []
    before: Slice | None = None
    for z in range(depth):
        plane_YX = image.read((slice(z, z + 1), slice(None), slice(None)))[0, 0]
        shares[:, z] = [(plane_YX == edge).mean() for edge in edges]
        middle = _middle(plane_YX)
        if float(np.ptp(plane_YX)) == 0:
            shares[:, z] = 0
            yield _slice_finding("blank", z, place, size, "has one value only")
            before = None
            continue
        if before is not None:
            if np.abs(middle - before).mean() <= _ALIKE * float(middle.std()):
                yield _slice_finding(
                    "duplicate", z, place, size, f"repeats slice {z - 1}"
                )
            else:
                moved, gain = _find_shift(before, middle)
                lengths[z] = float(np.hypot(*moved))
                shifts.append((z, moved, gain))
        before = middle
    yield from _check_saturation(shares, edges, place, size)
    yield from _check_shifts(shifts, lengths, place, size)


def _slice_finding(
    kind: Any, z: int, place: tuple[int, int], size: int, what: str
) -> Finding:
    return Finding(kind, "warning", 0, (z, *place), size, f"slice {z} {what}")


def _extremes(image: Volume) -> tuple[float, float]:
    """Return the lowest and highest value of the first channel."""
    ends = [
        (float(plane.min()), float(plane.max()))
        for plane in (
            image.read((slice(z, z + 1), slice(None), slice(None)))[0]
            for z in range(image.shape_ZYX[0])
        )
    ]
    lows, highs = zip(*ends, strict=True)
    return min(lows), max(highs)


def _middle(plane_YX: NDArray[Any]) -> Slice:
    starts = [max(0, (n - _SAMPLE_EDGE) // 2) for n in plane_YX.shape]
    index = tuple(slice(a, a + _SAMPLE_EDGE) for a in starts)
    return plane_YX[index].astype(np.float32)


def _find_shift(before: Slice, plane: Slice) -> tuple[NDArray[np.float64], float]:
    """Return how far (y, x) `plane` lies off, and what moving it back would gain."""
    if min(before.shape) < 8 or before.std() == 0 or plane.std() == 0:
        return np.zeros(2), 0.0
    moved, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        before, plane, normalization="phase"
    )
    offset = -np.round(np.asarray(moved, float))
    if not offset.any() or (np.abs(offset) > np.array(plane.shape) / 4).any():
        return np.zeros(2), 0.0
    dy, dx = (int(v) for v in offset)
    height, width = plane.shape
    here = plane[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    there = before[
        max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)
    ]
    after = _correlate(here, there)
    if after < _SHIFT_ALIKE:
        return np.zeros(2), 0.0
    return offset, after - _correlate(plane, before)


def _correlate(one: Slice, other: Slice) -> float:
    spread = float(one.std() * other.std())
    if spread == 0:
        return 0.0
    return float(((one - one.mean()) * (other - other.mean())).mean() / spread)


def _check_saturation(
    shares: NDArray[np.float64],
    edges: tuple[float, float],
    place: tuple[int, int],
    size: int,
) -> Iterator[Finding]:
    """Find slices in which far more voxels than usual have the extreme value."""
    for share, edge, word in zip(shares, edges, ("lowest", "highest"), strict=True):
        usual = float(np.median(share))
        for z in np.flatnonzero(
            share > max(_SATURATED_SHARE, _SATURATED_TIMES * usual)
        ):
            percent = f"{100 * share[z]:.0f} % of slice {z}"
            yield Finding(
                "saturated",
                "warning",
                0,
                (int(z), *place),
                round(float(share[z]) * size),
                f"{percent} has the {word} value of the volume, {edge:g}",
            )
        if word == "highest" and usual > _SATURATED_SHARE:
            yield Finding(
                "saturated",
                "warning",
                0,
                (len(share) // 2, *place),
                round(usual * size),
                f"{100 * usual:.0f} % of a typical slice has the highest value, "
                f"{edge:g}: details there are lost",
            )


def _check_shifts(
    shifts: Sequence[tuple[int, NDArray[np.float64], float]],
    lengths: NDArray[np.float64],
    place: tuple[int, int],
    size: int,
) -> Iterator[Finding]:
    """Find slices that lie off by more than objects lean from one to the next."""
    usual = float(np.median(lengths))
    for z, moved, gain in shifts:
        length = lengths[z]
        if length < max(_SHIFT_PIXELS, 3 * usual) or gain < _SHIFT_GAIN:
            continue
        dy, dx = moved
        yield Finding(
            "shifted",
            "warning",
            0,
            (z, *place),
            size,
            f"slice {z} lies {dy:+.0f} pixels in y and {dx:+.0f} in x off slice "
            f"{z - 1}",
        )
