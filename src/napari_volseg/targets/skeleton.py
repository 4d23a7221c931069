"""How near each voxel of an object lies to the object's middle line."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["centrality"]

_EXPONENT = 0.8
_TWIG = 0.5
"""Parts of a skeleton thinner than this share of its median are twigs."""
_LAYERS = 6
"""Layers of voxels from the surface of an object to its middle, when thinned."""
_MAX_MARGIN = 32
"""Voxels that an object is continued beyond a face of the volume at most."""
_MAX_VOXELS = 50_000_000
"""Beyond this an object is thinned as it is, not with cubic voxels."""

Mask = NDArray[np.bool_]


def centrality(
    pieces: NDArray[np.integer[Any]],
    depth: NDArray[np.float32],
    voxel_size: Sequence[float],
    values: NDArray[np.uint8],
) -> None:
    """Fill in (depth / (depth + distance to the skeleton)) ** 0.8 of every piece.

    So all of the middle line of a long object is 1, where it is thick and where it
    is thin, and no bottleneck makes two seeds of it; the idea is that of the
    skeleton-aware distance of Lin et al. 2021 (NucMM) and PyTorch Connectomics.

    Parameters
    ----------
    pieces
        Ids 1…n of connected pieces, 0 elsewhere; (Z, Y, X) or (Y, X).
    depth
        Distance to the surface in the unit of `voxel_size`.
    values
        The result, 255 being 1; background is not written.
    """
    for id_, box in enumerate(ndimage.find_objects(pieces), start=1):
        if box is None:
            continue
        inside = pieces[box] == id_
        depth_here = np.where(inside, depth[box], 0)
        skeleton = _find_skeleton(inside, depth_here, voxel_size, box, pieces.shape)
        distance = edt.edt(
            np.ascontiguousarray(~skeleton),
            anisotropy=tuple(voxel_size),
            black_border=False,
            parallel=1 if inside.size < 500_000 else 0,
        )
        total = np.where(inside, depth_here + distance, 1)
        share = np.rint(255 * (depth_here / total) ** _EXPONENT)
        # Above 0 in all of the object.
        values[box][inside] = np.maximum(share, 1)[inside].astype(np.uint8)


def _find_skeleton(
    inside: Mask,
    depth: NDArray[np.float32],
    voxel_size: Sequence[float],
    box: tuple[slice, ...],
    shape: Sequence[int],
) -> Mask:
    """Return the middle line of one object, where it is deepest at the least."""
    # Beyond a face of the volume the object goes on: the face is no surface. A line
    # ends about one depth before the end of its object.
    deepest = float(depth.max())
    margins = [
        (
            min(ceil(2 * deepest / edge), _MAX_MARGIN) if part.start == 0 else 0,
            min(ceil(2 * deepest / edge), _MAX_MARGIN) if part.stop == n else 0,
        )
        for part, n, edge in zip(box, shape, voxel_size, strict=True)
    ]
    padded = np.pad(inside, margins, mode="edge")
    thin = _thin(padded, voxel_size, deepest)
    skeleton = thin[
        tuple(
            slice(before, before + n)
            for (before, _), n in zip(margins, inside.shape, strict=True)
        )
    ]
    skeleton = skeleton & inside
    if skeleton.any():
        skeleton &= depth >= _TWIG * np.median(depth[skeleton])
        return skeleton
    return np.asarray(depth == deepest) & inside


def _thin(inside: Mask, voxel_size: Sequence[float], deepest: float) -> Mask:
    """Thin an object to a line, one layer of about cubic voxels after the other.

    Thinning knows no lengths, so long voxels are divided and, where the object is
    thick, short ones are joined: a sixth of its depth is fine enough.
    """
    # Half a second to import, for this kind of target only.
    from skimage.morphology import skeletonize

    edge = max(min(voxel_size), deepest / _LAYERS)
    parts = [max(1, round(e / edge)) for e in voxel_size]
    joins = [max(1, int(edge / e)) for e in voxel_size]
    if inside.size * prod(parts) > _MAX_VOXELS * prod(joins):
        parts = [1] * inside.ndim
    missing = [(0, -n % join) for n, join in zip(inside.shape, joins, strict=True)]
    cubic = _join(np.pad(inside, missing), joins)
    thin = skeletonize(_divide(cubic, parts))  # type: ignore[no-untyped-call]
    line = _divide(_join(thin, parts), joins)
    return line[tuple(slice(n) for n in inside.shape)]


def _divide(mask: Mask, parts: Sequence[int]) -> Mask:
    for axis, n in enumerate(parts):
        mask = np.repeat(mask, n, axis) if n > 1 else mask
    return mask


def _join(mask: Mask, joins: Sequence[int]) -> Mask:
    """Return where any voxel of each block is set."""
    blocks = [
        size
        for n, join in zip(mask.shape, joins, strict=True)
        for size in (n // join, join)
    ]
    within = tuple(range(1, 2 * mask.ndim, 2))
    return np.asarray(mask.reshape(blocks).any(axis=within))
