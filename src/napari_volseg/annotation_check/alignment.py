"""Whether the labels lie where the image is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

from napari_volseg.annotation_check.findings import Finding
from napari_volseg.volume import Volume

__all__ = ["check_alignment"]

_MAX_SLICES = 24
_MAX_EDGE = 512
_REACH_YX = 16
_REACH_Z = 2
_SURE = 1.5
"""How many times better the labels must fit elsewhere."""
_FAINT = 0.1
"""Outlines that fit the image's edges less than this nowhere say nothing."""


def check_alignment(
    image: Volume,
    labels_ZYX: NDArray[np.integer[Any]],
    annotated_ZYX: NDArray[np.bool_] | None,
) -> Iterator[Finding]:
    """Yield a finding when the outlines fit the edges of the image better elsewhere.

    Outlines and edges of some slices are correlated for every offset up to 16 pixels
    in a slice and two slices in depth.
    """
    labelled = labels_ZYX.any(axis=(1, 2))
    if annotated_ZYX is not None:
        labelled &= annotated_ZYX.any(axis=(1, 2))
    slices = np.flatnonzero(labelled)
    if not slices.size or min(labels_ZYX.shape[1:]) < 4 * _REACH_YX:
        return
    chosen = slices[:: max(1, -(-slices.size // _MAX_SLICES))]
    by_edge, by_value = _scores(image, labels_ZYX, annotated_ZYX, chosen)
    # Outlines lie on the edges of bright objects, or on membranes of one colour.
    scores = max(by_edge, np.abs(by_value), key=np.max)
    best = np.unravel_index(int(np.argmax(scores)), scores.shape)
    dz, dy, dx = (
        int(i) - reach
        for i, reach in zip(best, (_REACH_Z, _REACH_YX, _REACH_YX), strict=True)
    )
    here = float(scores[_REACH_Z, _REACH_YX, _REACH_YX])
    there = float(scores[best])
    is_far = abs(dz) >= 1 or max(abs(dy), abs(dx)) >= 2
    if not is_far or there < _FAINT or there < _SURE * max(here, 0.0):
        return
    z = int(chosen[chosen.size // 2])
    ids, counts = np.unique(labels_ZYX[z][labels_ZYX[z] > 0], return_counts=True)
    y, x = np.argwhere(labels_ZYX[z] == ids[counts.argmax()])[0]
    yield Finding(
        "misaligned",
        "error",
        0,
        (z, int(y), int(x)),
        int(labels_ZYX.size),
        f"the outlines of the labels fit the image {there / max(here, 0.01):.1f} times "
        f"better when moved by {dz:+d} slices, {dy:+d} pixels in y and {dx:+d} in x: "
        "check that image and labels belong together",
    )


def _scores(
    image: Volume,
    labels_ZYX: NDArray[np.integer[Any]],
    annotated_ZYX: NDArray[np.bool_] | None,
    chosen: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Correlate outlines with edges and with values, at offsets up to the reach.

    Returns
    -------
    scores
        Axes: edges or values; offset in z, y and x, from -reach to +reach.
    """
    depth = image.shape_ZYX[0]
    window = _window(labels_ZYX.shape[1:])
    total = np.zeros((2, 2 * _REACH_Z + 1, 2 * _REACH_YX + 1, 2 * _REACH_YX + 1))
    number = np.zeros(2 * _REACH_Z + 1)
    for z in chosen:
        outline = _outline(labels_ZYX[z][window])
        if annotated_ZYX is not None:
            outline *= annotated_ZYX[z][window]
        outline_F = np.conj(np.fft.rfft2(_standard(outline)))
        for dz in range(-_REACH_Z, _REACH_Z + 1):
            if not 0 <= z + dz < depth:
                continue
            plane = image.read((slice(z + dz, z + dz + 1), *window))[0, 0]
            smooth = gaussian_filter(plane.astype(np.float32), 1)
            edges = gaussian_gradient_magnitude(plane.astype(np.float32), 2)
            for kind, feature in enumerate((edges, smooth)):
                total[kind, dz + _REACH_Z] += _correlate(outline_F, feature)
            number[dz + _REACH_Z] += 1
    scores: NDArray[np.float64] = total / np.maximum(number, 1)[:, None, None]
    return scores


def _correlate(outline_F: NDArray[Any], plane: NDArray[Any]) -> NDArray[np.float64]:
    """Return the correlation of a plane with outlines moved by -reach to +reach."""
    product = np.fft.irfft2(outline_F * np.fft.rfft2(_standard(plane)), s=plane.shape)
    shifted = np.roll(product, (_REACH_YX, _REACH_YX), axis=(0, 1)) / plane.size
    part: NDArray[np.float64] = shifted[: 2 * _REACH_YX + 1, : 2 * _REACH_YX + 1]
    return part


def _window(shape_YX: tuple[int, ...]) -> tuple[slice, slice]:
    y, x = (
        slice(max(0, (n - _MAX_EDGE) // 2), max(0, (n - _MAX_EDGE) // 2) + _MAX_EDGE)
        for n in shape_YX
    )
    return y, x


def _outline(labels_YX: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return where ids change, blurred: edges lie beside thin lines on both sides."""
    change = np.zeros(labels_YX.shape)
    change[1:] += labels_YX[1:] != labels_YX[:-1]
    change[:, 1:] += labels_YX[:, 1:] != labels_YX[:, :-1]
    blurred: NDArray[np.float64] = gaussian_filter(np.minimum(change, 1), 1.5)
    return blurred


def _standard(plane: NDArray[Any]) -> NDArray[np.float64]:
    """Return a plane with the mean 0 and the standard deviation 1; flat gives 0."""
    spread = float(plane.std())
    if spread == 0:
        return np.zeros(plane.shape)
    return (plane.astype(np.float64) - float(plane.mean())) / spread
