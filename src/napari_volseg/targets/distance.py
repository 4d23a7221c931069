"""How deep each voxel lies in its object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray

from napari_volseg.targets.boundary import near_unannotated
from napari_volseg.targets.skeleton import centrality

__all__ = ["DistanceKind", "encode_depth", "measure", "signed_reach"]

DistanceKind = Literal["depth", "signed", "skeleton"]

_REACH = 8

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


def signed_reach(voxel_size: Sequence[float]) -> float:
    """Return how far outside in nm a signed distance falls to 0."""
    return _REACH * min(voxel_size)


def measure(
    labels: Labels,
    voxel_size: tuple[float, ...],
    kind: DistanceKind,
    annotated: Mask | None,
    values: NDArray[np.uint8],
    valid: Mask,
) -> None:
    """Fill in the distance of a volume or a slice.

    - ``depth``: in each connected piece, the distance to its surface over the
      largest in the piece, from above 0 to 1; 0 in background.
    - ``signed``: (1 + depth) / 2 inside, and from one half at the surface down to 0
      at eight of the shortest voxel edges outside; 128 or more in objects.
    - ``skeleton``: `skeleton.centrality`, 1 on the middle line of a piece; 0 in
      background. Pieces that touch unannotated voxels are not valid: where their
      middle line runs nobody knows.

    Parameters
    ----------
    labels
        Instance ids, 0 in background and where nothing is annotated.
    values
        All 0; the result, 255 being 1.
    valid
        True where annotated; made False where the distance is unknown.
    """
    if kind == "signed":
        _measure_outside(labels, voxel_size, annotated, values, valid)
    if not labels.any():
        return
    pieces = cc3d.connected_components(
        labels, connectivity=8 if labels.ndim == 2 else 26
    )
    depth = _distances(pieces, voxel_size)
    deepest = np.zeros(int(pieces.max()) + 1, np.float32)
    np.maximum.at(deepest, pieces.reshape(-1), depth.reshape(-1))

    if annotated is not None and not annotated.all():
        known = depth < _distances(annotated, voxel_size)
        fathomed = np.ones(deepest.shape, np.bool_)
        fathomed[pieces[~known & (depth == deepest[pieces])]] = False
        if kind == "skeleton":
            axes = range(labels.ndim)
            fathomed[pieces[near_unannotated(annotated, axes, voxel_size, 0)]] = False
        valid &= (known & fathomed[pieces]) | (pieces == 0)

    unbounded = np.isinf(deepest)
    deepest[unbounded] = 1
    deepest[0] = 1
    if kind == "skeleton":
        centrality(pieces, np.minimum(depth, deepest[pieces]), voxel_size, values)
        values[unbounded[pieces]] = 255
        return
    # Slice by slice, to hold no more arrays of the whole volume than necessary.
    for value, part, id_ in zip(values, depth, pieces, strict=True):
        np.minimum(part, deepest[id_], out=part)
        encoded = encode_depth(part, deepest[id_], kind)
        np.copyto(value, encoded, where=id_ != 0)


def encode_depth(
    depth: NDArray[np.float32], deepest: NDArray[np.float32], kind: DistanceKind
) -> NDArray[np.uint8]:
    """Return what stands for a depth in an object that is `deepest` somewhere."""
    if kind == "signed":
        # At least 128: above one half, however small the depth.
        signed = np.rint(127.5 + depth * (127.5 / deepest))
        return np.clip(signed, 128, 255).astype(np.uint8)
    return np.rint(depth * (255 / deepest)).astype(np.uint8)


def _measure_outside(
    labels: Labels,
    voxel_size: tuple[float, ...],
    annotated: Mask | None,
    values: NDArray[np.uint8],
    valid: Mask,
) -> None:
    """Fill in the signed distance of the background."""
    background = labels == 0
    reach = signed_reach(voxel_size)
    distance = np.minimum(_distances(background, voxel_size), reach)
    outside = np.rint(127.5 * (1 - distance / reach))
    np.copyto(values, outside, where=background, casting="unsafe")
    if annotated is not None and not annotated.all():
        gap = _distances(annotated, voxel_size)
        valid &= ~background | (distance <= gap)


def _distances(
    regions: NDArray[Any], voxel_size: tuple[float, ...]
) -> NDArray[np.float32]:
    """Return the distance of each voxel to the nearest one of another region."""
    distances: NDArray[np.float32] = edt.edt(
        np.require(regions, requirements=["C", "W"]),
        anisotropy=voxel_size,
        black_border=False,
        parallel=1 if regions.size < 500_000 else 0,
    )
    return distances
