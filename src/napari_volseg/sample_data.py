"""Generated volumes that look like microscopy, with their exact labels.

For the demo, the tests and napari's *Open Sample*; numpy and scipy only. Lengths
are in pixels, the edge of a voxel within the slice; `step` is the size of a voxel
(z, y, x) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from napari_volseg.volume import LabelledVolume, Volume, VoxelSize

__all__ = ["Kind", "make_sample"]

Kind = Literal["vesicles", "cells", "nuclei"]

Array = NDArray[np.float32]
Point = NDArray[np.float64]
Balls = NDArray[np.float64]  # one row a ball: its centre (z, y, x) and its radius
Rng = np.random.Generator

# Grey values: 0 is black (stained), 1 is white.
_CYTOPLASM, _MEMBRANE, _RESIN = 0.60, 0.20, 0.86
_FAR = np.float32(1e3)


def make_sample(
    kind: Kind = "vesicles",
    shape: Sequence[int] = (48, 160, 160),
    seed: int = 0,
    voxel_size: VoxelSize = (30.0, 8.0, 8.0),
) -> LabelledVolume:
    """Generate a volume of vesicles in cytoplasm, of cells that touch, or of nuclei.

    Vesicles are round, with a dark membrane and a lumen; many lie in clusters and
    touch. Cells share dark membranes, with some resin between them. What else is
    there is not labelled: membranes, dark bodies, mitochondria, nuclei. Slices
    differ in brightness, and the image is blurred, most across slices, and noisy.

    Nuclei look like a light-sheet volume: bright, of uneven brightness, dimmer and
    more blurred with depth, many touching, in noise of few photons.

    Parameters
    ----------
    kind
        What is labelled.
    shape
        Size (z, y, x) in voxels.
    seed
        The same seed gives the same volume.
    voxel_size
        Edge lengths (z, y, x) in nm. Vesicles are 13 to 30 voxels wide and cells
        about 45, within the slice, and nuclei 11 to 17; across slices, they are as
        deep as wide in nm.

    Returns
    -------
    LabelledVolume
        A uint8 image and int32 labels 1…n, all of it annotated.
    """
    rng = np.random.default_rng([seed, len(kind)])
    size = np.array([int(n) for n in shape])
    step = np.array(voxel_size) / voxel_size[2]
    if kind == "nuclei":
        image, labels_ZYX = _paint_nuclei(rng, size, step)
        grey_ZYX = _expose_light_sheet(rng, image, step)
    else:
        paint = _paint_vesicles if kind == "vesicles" else _paint_cells
        image, labels_ZYX = paint(rng, size, step)
        grey_ZYX = _expose(rng, image, step)
    volume = Volume(grey_ZYX, voxel_size, f"sample {kind} {seed}")
    return LabelledVolume(volume, labels_ZYX)


def _paint_vesicles(
    rng: Rng, size: NDArray[np.int_], step: Point
) -> tuple[Array, NDArray[np.int32]]:
    image = _cytoplasm(rng, size, step)
    _draw_membranes(rng, image, step)
    extent = size * step
    none: Balls = np.zeros((0, 4))
    vesicles = _place(none, rng.uniform(0.3, 0.7, 3) * extent, rng.uniform(6.5, 10))
    bodies = none
    for _ in range(_number(extent, 250)):
        centre, radius = rng.uniform(0, extent), rng.uniform(10, 24)
        bodies = _place(bodies, centre, radius, vesicles)
    for index, ball in enumerate(bodies):
        draw = _draw_mitochondrion if index % 2 else _draw_dark_body
        draw(rng, image, step, ball[:3], ball[3])
    for _ in range(4 * _number(extent, 32)):
        vesicles = _grow_cluster(rng, vesicles, bodies, extent)
    return image, _draw_vesicles(rng, image, step, vesicles)


def _paint_cells(
    rng: Rng, size: NDArray[np.int_], step: Point
) -> tuple[Array, NDArray[np.int32]]:
    image = _cytoplasm(rng, size, step)
    bend = np.stack([5 * _noise(rng, size, 14 / step) for _ in range(3)], axis=-1)
    points = np.indices(tuple(size)).transpose(1, 2, 3, 0) * step + bend
    sites = _scatter(rng, size * step, 42)
    distance, nearest = KDTree(sites).query(points.astype(np.float32), k=2)
    cell = nearest[..., 0]
    # Half the difference of the two distances: how far the membrane is, roughly.
    depth = np.square(distance).astype(np.float32) @ np.array([-0.5, 0.5], np.float32)
    depth /= np.linalg.norm(sites[nearest[..., 1]] - sites[cell], axis=-1) + 1e-6
    n_voxels = np.bincount(cell.reshape(-1), minlength=len(sites))
    # What only peeps into the volume would be an object that nobody can tell.
    resin = (rng.random(len(sites)) < 0.18) | (n_voxels < 0.005 * 42**3 / step[0])
    resin[np.argmax(n_voxels)] = False

    shade = rng.normal(0, 0.05, len(sites)).astype(np.float32)
    image += shade[cell]
    for centre in sites[~resin]:
        for _ in range(3):
            place = centre + rng.normal(0, 9, 3)
            draw = _draw_mitochondrion if rng.random() < 0.6 else _draw_dark_body
            draw(rng, image, step, place, rng.uniform(4, 8))
        _draw_nucleus(rng, image, step, centre, rng.uniform(7, 11))
    np.copyto(image, np.float32(_RESIN), where=resin[cell])
    sides_differ = ~(resin[cell] & resin[nearest[..., 1]])
    _stain(image, np.where(sides_differ, depth, _FAR), width=1.7)
    ids = np.where(resin, 0, np.cumsum(~resin)).astype(np.int32)
    return image, _renumber(ids[cell])


def _paint_nuclei(
    rng: Rng, size: NDArray[np.int_], step: Point
) -> tuple[Array, NDArray[np.int32]]:
    """Paint what fluoresces; where two nuclei overlap, the deeper one has the voxel."""
    centres = _scatter(rng, size * step, 16)
    centres = centres[rng.random(len(centres)) < 0.7]
    surface = np.full(size, _FAR)
    owner = np.zeros(size, np.int32)
    wobble = np.float32(0.5) * _noise(rng, size, 4 / step)
    for index, centre in enumerate(centres, start=1):
        radius = rng.uniform(5.5, 8.5)
        box, distance = _distance_from(centre, radius + 2, tuple(size), step)
        distance = distance - np.float32(radius) + wobble[box]
        nearer = distance < surface[box]
        surface[box][nearer] = distance[nearer]
        owner[box][nearer] = index
    shine = rng.uniform(0.35, 1.0, len(centres) + 1).astype(np.float32)
    chromatin = 1 + np.float32(0.18) * _noise(rng, size, 1.6 / step)
    image = np.where(surface < 0, shine[owner] * chromatin, np.float32(0.06))
    inside = np.where(surface < 0, owner, 0)
    # What only peeps into the volume would be an object that nobody can tell.
    is_speck = np.bincount(inside.reshape(-1)) < 0.1 * 4 / 3 * np.pi * 6**3 / step[0]
    return image.astype(np.float32), _renumber(np.where(is_speck[inside], 0, inside))


def _cytoplasm(rng: Rng, size: NDArray[np.int_], step: Point) -> Array:
    fine, coarse = _noise(rng, size, 1.2 / step), _noise(rng, size, 6 / step)
    return np.float32(_CYTOPLASM) + np.float32(0.06) * fine + np.float32(0.05) * coarse


def _draw_membranes(rng: Rng, image: Array, step: Point) -> None:
    """Paint thin dark sheets, the zero level of smooth noise, where a second allows."""
    size = np.array(image.shape)
    sheet, where = _noise(rng, size, 13 / step), _noise(rng, size, 18 / step)
    slope = np.sqrt(
        sum(
            np.square(np.gradient(sheet, axis=axis) / step[axis])
            for axis in range(3)
            if size[axis] > 1
        )
    )
    distance = np.abs(sheet) / np.maximum(slope, 0.02)
    _stain(image, np.where(where > 0.2, distance, _FAR), width=1.4)


def _draw_vesicles(
    rng: Rng, image: Array, step: Point, vesicles: Balls
) -> NDArray[np.int32]:
    """Paint vesicles; where two overlap, a voxel goes to the one it lies deeper in."""
    surface = np.full(image.shape, _FAR)
    owner = np.zeros(image.shape, np.int32)
    wobble = np.float32(0.8) * _noise(rng, np.array(image.shape), 5 / step)
    for index, ball in enumerate(vesicles, start=1):
        radius = ball[3]
        box, distance = _distance_from(ball[:3], radius + 3, image.shape, step)
        distance = distance - np.float32(radius) + wobble[box]
        nearer = distance < surface[box]
        surface[box][nearer] = distance[nearer]
        owner[box][nearer] = index
    labels = _renumber(np.where(surface < 0, owner, 0))

    lumen = rng.uniform(0.55, 0.88, len(vesicles) + 1).astype(np.float32)
    texture = np.float32(0.04) * _noise(rng, np.array(image.shape), 1.0 / step)
    np.copyto(image, lumen[owner] + texture, where=surface < 0)
    _stain(image, surface + np.float32(1.6), width=1.7)
    return labels


def _draw_dark_body(
    rng: Rng, image: Array, step: Point, centre: Point, radius: float
) -> None:
    box, distance = _distance_from(centre, radius + 2, image.shape, step)
    grain = rng.normal(rng.uniform(0.2, 0.34), 0.07, distance.shape)
    np.copyto(image[box], grain.astype(np.float32), where=distance < radius)


def _draw_mitochondrion(
    rng: Rng, image: Array, step: Point, centre: Point, radius: float
) -> None:
    """Paint a long body with a dark outline and folds across it."""
    axis = rng.normal(size=3) * (0.4, 1, 1)
    axis /= np.linalg.norm(axis)
    reach = 2.2 * radius
    box, _ = _distance_from(centre, reach, image.shape, step)
    offset = _offsets(box, step) - centre
    along = offset @ axis
    across = np.sqrt(np.maximum(np.square(offset).sum(-1) - along**2, 0))
    shape = np.sqrt((across / radius) ** 2 + (along / reach) ** 2)
    depth = ((1 - shape) * radius).astype(np.float32)
    folds = 0.44 + 0.12 * np.sin(along * 2.2 + 0.35 * across)
    np.copyto(image[box], folds.astype(np.float32), where=depth > 0)
    view = image[box]
    _stain(view, np.abs(depth - 1), width=1.3)


def _draw_nucleus(
    rng: Rng, image: Array, step: Point, centre: Point, radius: float
) -> None:
    box, distance = _distance_from(centre, radius + 3, image.shape, step)
    patches = _noise(rng, np.array(distance.shape), 2.5 / step)
    chromatin = np.float32(0.5) + np.float32(0.08) * patches
    np.copyto(image[box], chromatin, where=distance < radius)
    view = image[box]
    _stain(view, np.abs(distance - np.float32(radius)), width=1.2)


def _stain(image: Array, distance: Array, width: float) -> None:
    """Darken, in place, what lies within `width` pixels of a surface."""
    weight = np.exp(-((distance / np.float32(width)) ** 4))
    image += weight * (np.float32(_MEMBRANE) - image)


def _place(
    balls: Balls, centre: Point, radius: float, others: Balls | None = None
) -> Balls:
    """Add a ball unless it would bite into one of these or the others."""
    taken = balls if others is None else np.concatenate([balls, others])
    apart = np.linalg.norm(taken[:, :3] - centre, axis=1)
    if (apart <= 0.95 * (taken[:, 3] + radius)).any():
        return balls
    return np.append(balls, [[*centre, radius]], axis=0)


def _grow_cluster(rng: Rng, vesicles: Balls, bodies: Balls, extent: Point) -> Balls:
    """Try to add a vesicle: two in three times against one that is there."""
    radius = rng.uniform(6.5, 15)
    centre = rng.uniform(0, extent)
    if rng.random() < 0.67:
        other = vesicles[rng.integers(len(vesicles))]
        way = rng.normal(size=3)
        reach = 0.96 * (radius + other[3])
        centre = other[:3] + way / np.linalg.norm(way) * reach
    if (centre >= 0).all() and (centre < extent).all():
        return _place(vesicles, centre, radius, bodies)
    return vesicles


def _scatter(rng: Rng, extent: Point, spacing: float) -> Point:
    """Return jittered grid points, about `spacing` apart, beyond the volume too."""
    axes = [np.arange(-0.5, n / spacing + 1) * spacing for n in extent]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid + rng.uniform(-0.38, 0.38, grid.shape) * spacing


def _number(extent: Point, spacing: float) -> int:
    """Return how many points this far apart fill the volume."""
    return max(1, round(float(np.prod(np.maximum(extent, 20))) / spacing**3))


def _distance_from(
    centre: Point, reach: float, shape: tuple[int, ...], step: Point
) -> tuple[tuple[slice, ...], Array]:
    """Return the box within reach of a point and the distance of its voxels to it."""
    low = np.maximum(np.floor((centre - reach) / step), 0).astype(int)
    high = np.minimum(np.ceil((centre + reach) / step) + 1, shape).astype(int)
    box = tuple(
        slice(a, max(a, b)) for a, b in zip(low.tolist(), high.tolist(), strict=True)
    )
    distance = np.linalg.norm(_offsets(box, step) - centre, axis=-1)
    return box, distance.astype(np.float32)


def _offsets(box: tuple[slice, ...], step: Point) -> Point:
    """Return the position of each voxel of a box in pixels, shape (Z, Y, X, 3)."""
    axes = [np.arange(s.start, s.stop) * n for s, n in zip(box, step, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _renumber(labels_ZYX: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the labels as 1…n without gaps."""
    used = np.bincount(labels_ZYX.reshape(-1)) > 0
    used[0] = False
    ids: NDArray[np.int32] = np.where(used, np.cumsum(used), 0).astype(np.int32)
    return ids[labels_ZYX]


def _noise(rng: Rng, size: NDArray[np.int_], sigma: Point) -> Array:
    """Return smooth noise of mean 0 and deviation about 1; `sigma` is in voxels."""
    # Wide blurs are made on a coarse grid, so that the cost does not grow with them.
    factor = np.maximum(sigma / 2, 1)
    coarse = np.ceil(size / factor).astype(int) + 2
    noise = rng.standard_normal(tuple(coarse), dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, sigma / factor, mode="reflect")
    noise /= max(float(noise.std()), 1e-6)
    if (factor > 1).any():
        noise = ndimage.zoom(noise, factor, order=1)
    grown: Array = noise[tuple(slice(n) for n in size)]
    return grown


def _expose(rng: Rng, image: Array, step: Point) -> NDArray[np.uint8]:
    """Photograph the volume: blur, uneven slices, noise, 8 bits."""
    image = ndimage.gaussian_filter(image, (0.45, 0.8, 0.8))
    n_slices = image.shape[0]
    gain = rng.normal(1, 0.05, (n_slices, 1, 1)).astype(np.float32)
    offset = rng.normal(0, 0.03, (n_slices, 1, 1)).astype(np.float32)
    tilt_y, tilt_x = (
        np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in image.shape[1:]
    )
    slopes = rng.normal(0, 0.05, (2, n_slices, 1, 1)).astype(np.float32)
    shade = slopes[0] * tilt_y[:, np.newaxis] + slopes[1] * tilt_x
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    grain *= np.sqrt(np.maximum(image, 0.1)) * np.float32(0.09)
    image = (image - np.float32(0.5)) * gain + np.float32(0.52) + offset + shade + grain
    return np.clip(np.rint(image * 230), 0, 255).astype(np.uint8)


def _expose_light_sheet(rng: Rng, image: Array, step: Point) -> NDArray[np.uint8]:
    """Photograph the volume: light fades with depth, blur along z, few photons."""
    sharp = ndimage.gaussian_filter(image, (1.2 / step[0], 0.8, 0.8))
    blurred = ndimage.gaussian_filter(image, (4 / step[0], 1.6, 1.6))
    depth = np.linspace(0, 1, image.shape[0], dtype=np.float32)[:, None, None]
    light = (sharp * (1 - depth) + blurred * depth) * (1 - np.float32(0.4) * depth)
    photons = rng.poisson(np.maximum(light, 0) * 60 + 4).astype(np.float32)
    grey: NDArray[np.uint8] = np.clip(np.rint(photons * 2.6), 0, 255).astype(np.uint8)
    return grey
