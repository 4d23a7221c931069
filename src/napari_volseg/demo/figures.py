"""Slices of volumes, maps and instances as PNG images."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["colour_labels", "colour_map", "encode_png", "matching_colours", "to_grey"]

RGB = NDArray[np.uint8]

_MAP_COLOURS = {
    "mask": ((0, 0, 0), (255, 255, 255)),
    "boundary": ((0, 0, 0), (255, 0, 255)),
    # Five points of matplotlib's viridis.
    "distance": (
        (68, 1, 84),
        (59, 82, 139),
        (33, 145, 140),
        (94, 201, 98),
        (253, 231, 37),
    ),
}
_UNMATCHED = (235, 64, 52)


def to_grey(plane_YX: NDArray[Any], low: float, high: float) -> RGB:
    """Return an image slice as grey, `low` black and `high` white."""
    scaled = (plane_YX.astype(np.float32) - low) / max(high - low, 1e-6)
    grey = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)


def colour_map(plane_YX: NDArray[np.uint8], channel: str) -> RGB:
    """Return a slice of a map in the colours of its channel.

    Parameters
    ----------
    plane_YX
        Probability × 255.
    channel
        ``mask``, ``boundary`` or ``distance``.
    """
    points = np.array(_MAP_COLOURS[channel], dtype=np.float64)
    positions = np.linspace(0, 255, len(points))
    levels = np.arange(256)
    table = np.stack([np.interp(levels, positions, c) for c in points.T], axis=-1)
    return table.round().astype(np.uint8)[plane_YX]


def colour_labels(
    labels_YX: NDArray[np.integer[Any]], colours: RGB, under: RGB | None = None
) -> RGB:
    """Return labels in colour, over a darkened image where one is given.

    Parameters
    ----------
    colours
        One colour an id, shape (highest id + 1, 3).
    under
        Grey image of the slice, shown where there is no label and through it.
    """
    coloured: RGB = colours[labels_YX]
    if under is None:
        return coloured
    strength = np.where(labels_YX[..., np.newaxis] > 0, 0.6, 0.0)
    mixed: RGB = (coloured * strength + under * (1 - strength)).astype(np.uint8)
    return mixed


def matching_colours(
    truth_ZYX: NDArray[np.integer[Any]], found_ZYX: NDArray[np.integer[Any]]
) -> tuple[RGB, RGB, int]:
    """Choose colours such that an object found has the colour of its true one.

    Objects without a partner that overlaps them with IoU > 0.5 are red.

    Returns
    -------
    truth_colours, found_colours
        One colour an id, shape (highest id + 1, 3).
    n_matched
        Number of pairs.
    """
    n_true, n_found = int(truth_ZYX.max()) + 1, int(found_ZYX.max()) + 1
    pairs = truth_ZYX.astype(np.int64).ravel() * n_found + found_ZYX.ravel()
    values, shared = np.unique(pairs, return_counts=True)
    true_ids, found_ids = np.divmod(values, n_found)
    true_sizes = np.bincount(truth_ZYX.ravel(), minlength=n_true)
    found_sizes = np.bincount(found_ZYX.ravel(), minlength=n_found)
    union = true_sizes[true_ids] + found_sizes[found_ids] - shared
    good = (true_ids > 0) & (found_ids > 0) & (2 * shared > union)
    true_ids, found_ids = true_ids[good], found_ids[good]

    truth_colours = np.full((n_true, 3), _UNMATCHED, dtype=np.uint8)
    found_colours = np.full((n_found, 3), _UNMATCHED, dtype=np.uint8)
    palette = _palette(len(true_ids))
    truth_colours[true_ids] = palette
    found_colours[found_ids] = palette
    truth_colours[0] = found_colours[0] = 0
    return truth_colours, found_colours, len(true_ids)


def encode_png(image: RGB, zoom: int = 1) -> bytes:
    """Return the image as a PNG file, each pixel `zoom` wide."""
    enlarged = np.repeat(np.repeat(image, zoom, axis=0), zoom, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(enlarged).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _palette(n: int) -> RGB:
    """Return n colours that differ from each other and from red."""
    golden = 0.618033988749895
    hue = 0.08 + 0.84 * ((np.arange(n) * golden) % 1)
    value = np.where(np.arange(n) % 2, 0.75, 1.0)
    ramp = np.abs((hue[:, np.newaxis] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    rgb = value[:, np.newaxis] * (1 - 0.65 * (1 - np.clip(ramp, 0, 1)))
    return np.asarray(rgb * 255, dtype=np.uint8)
