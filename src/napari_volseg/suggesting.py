"""Where to annotate next: where a network is least sure, and least like what is known.

A volume is looked at box by box, a few slices of each, so that it may be of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.volume import ArrayLike, Volume, VoxelSize

__all__ = ["Suggestion", "box_size", "suggest_boxes"]

_EDGE = (32, 128)
"""Fewest and most voxels of an edge within slices."""
_MAX_BOXES = 2000
"""Boxes that are looked at; of more, every second or third and so on."""
_N_SLICES = 4
_MIN_KNOWN = 200
"""Annotated voxels from which a box says what the annotation looks like."""
_MAX_KNOWN = 0.5
"""A box of which more is annotated needs no more."""
_MUCH = 0.5
"""Spreads by which a look must differ to be told."""

_WORDS = (
    ("brighter", "darker"),
    ("of more contrast", "of less contrast"),
    ("of finer texture", "smoother"),
    ("richer in edges", "poorer in edges"),
)
"""How the looks of a box are called when they are above or below what is known."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A box that is worth annotating."""

    box: Box
    score: float
    """0 to 1: the mean of how unsure and how new it is."""
    uncertainty: float | None
    """Mean entropy of mask and boundary, in bits; None without maps."""
    novelty: float | None
    """Distance from what is annotated, in spreads; None when nothing is."""
    reasons: tuple[str, ...]
    """Why, in words that follow on *this box is*."""


@dataclass(slots=True)
class _Look:
    """What a box looks like where it is not annotated, and where it is."""

    box: Box
    open: NDArray[np.float64] | None = None
    known: NDArray[np.float64] | None = None
    uncertainty: float = 0.0


def box_size(shape_ZYX: Sequence[int], voxel_size: VoxelSize) -> Size:
    """Return the size of boxes: as deep as wide in nm, a quarter of the volume wide."""
    z, y, x = (int(n) for n in shape_ZYX)
    low, high = _EDGE
    edge = min(max(min(y, x) // 4, low), high)
    depth = round(edge * voxel_size[1] / voxel_size[0])
    return min(z, max(1, depth)), min(y, edge), min(x, edge)


def suggest_boxes(
    image: Volume,
    known_ZYX: ArrayLike | None,
    maps: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    n: int = 5,
    size: Size | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> list[Suggestion]:
    """Return boxes that are worth annotating, the best first.

    Each next box is chosen as if those before it were annotated already, so that
    they differ from each other. The result depends on the data alone.

    Parameters
    ----------
    image
        May be lazy; a few slices of one box are read at a time.
    known_ZYX
        Not 0 where annotated; None for nothing.
    maps
        Mask and boundary (Z, Y, X), uint8, 255 being 1, that a network predicted.
    n
        Most boxes to return.
    size
        Size of a box; by default `box_size`.

    Returns
    -------
    list of Suggestion
        Disjoint boxes, less than half annotated and not of one gray value. Fewer
        than `n`, or none, when there are no more; none when cancelled.

    Raises
    ------
    DataError
        If the image cannot be read.
    """
    size = size or box_size(image.shape_ZYX, image.voxel_size)
    looks = []
    for box in _grid(image.shape_ZYX, size):
        if is_cancelled():
            return []
        looks.append(_look(image, known_ZYX, maps, box))
    candidates = [look for look in looks if look.open is not None]
    if not candidates:
        return []
    known = [look.known for look in looks if look.known is not None]
    return _choose(candidates, known, has_maps=maps is not None, n=n)


def _grid(shape: Size, size: Size) -> Iterator[Box]:
    """Return disjoint boxes, spread over the volume when there are very many."""
    starts = [_starts(length, edge) for length, edge in zip(shape, size, strict=True)]
    step = -(-prod(map(len, starts)) // _MAX_BOXES)
    for i, (z, y, x) in enumerate(product(*starts)):
        if i % step == 0:
            yield Box((z, y, x), (z + size[0], y + size[1], x + size[2]))


def _starts(length: int, edge: int) -> list[int]:
    """Return where boxes start along one axis: as many as fit, evenly spread."""
    count = length // edge
    if count == 1:
        return [(length - edge) // 2]
    return [i * (length - edge) // (count - 1) for i in range(count)]


def _look(
    image: Volume,
    known_ZYX: ArrayLike | None,
    maps: tuple[ArrayLike, ArrayLike] | None,
    box: Box,
) -> _Look:
    known = np.zeros(box.shape, bool)
    if known_ZYX is not None:
        known = np.asarray(known_ZYX[box.slices]) != 0
    look = _Look(box)
    if known.sum() >= _MIN_KNOWN:
        look.known = _features(image, box, known)
    if known.mean() < _MAX_KNOWN:
        look.open = _features(image, box, ~known)
        if maps is not None and look.open is not None:
            look.uncertainty = _uncertainty(maps, box, ~known)
    return look


def _some_slices(box: Box, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, Box]]:
    """Yield a few of the slices of a box in which anything is wanted."""
    found = np.flatnonzero(wanted.any(axis=(1, 2)))
    step = -(-found.size // _N_SLICES)
    (z0, y0, x0), (_, y1, x1) = box.start, box.stop
    for z in found[step // 2 :: step]:
        at = z0 + int(z)
        yield int(z), Box((at, y0, x0), (at + 1, y1, x1))


def _features(
    image: Volume, box: Box, wanted: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Return brightness, contrast, fine and coarse edges; None for one gray value."""
    values, fine, coarse = [], [], []
    for z, plane_box in _some_slices(box, wanted):
        plane = image.read(plane_box.slices).mean(axis=0, dtype=np.float32)[0]
        plane[~np.isfinite(plane)] = 0
        values.append(plane[wanted[z]])
        fine.append(_edges(plane)[wanted[z]].mean())
        small, is_wanted = _shrink(plane), _shrink(wanted[z])
        edges = _edges(small)[is_wanted > 0.5]
        coarse.append(edges.mean() if edges.size else fine[-1])
    if not values:
        return None
    flat = np.concatenate(values)
    if flat.min() == flat.max():
        return None
    low, high = np.quantile(flat, (0.1, 0.9))
    return np.array([flat.mean(), high - low, np.mean(fine), np.mean(coarse)], float)


def _edges(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much a plane changes from voxel to voxel."""
    result = np.zeros_like(plane)
    for axis in range(2):
        if plane.shape[axis] > 1:
            result += np.abs(np.gradient(plane, axis=axis))
    return result


def _shrink(plane: NDArray[np.generic], by: int = 4) -> NDArray[np.float32]:
    """Return means of squares of voxels, so that only coarse structure is left."""
    rows, columns = (max(1, length // by) for length in plane.shape)
    cut = plane[: rows * by, : columns * by].astype(np.float32)
    by_rows, by_columns = cut.shape[0] // rows, cut.shape[1] // columns
    squares = cut.reshape(rows, by_rows, columns, by_columns)
    result: NDArray[np.float32] = squares.mean(axis=(1, 3))
    return result


def _uncertainty(
    maps: tuple[ArrayLike, ArrayLike], box: Box, wanted: NDArray[np.bool_]
) -> float:
    """Return the mean entropy of mask and boundary in bits."""
    sums, count = 0.0, 0
    for z, plane_box in _some_slices(box, wanted):
        for each in maps:
            plane = np.asarray(each[plane_box.slices])[0]
            sums += float(_ENTROPY[plane[wanted[z]]].sum())
            count += int(wanted[z].sum())
    return sums / max(count, 1)


def _entropy_table() -> NDArray[np.float64]:
    p = np.arange(1, 255) / 255
    inner = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return np.concatenate([[0.0], inner, [0.0]])


_ENTROPY = _entropy_table()
"""Bits of doubt of a probability, 0 to 255."""


def _choose(
    candidates: list[_Look],
    known: list[NDArray[np.float64]],
    *,
    has_maps: bool,
    n: int,
) -> list[Suggestion]:
    """Choose boxes one after another, each as if the last were annotated."""
    looks = np.array([look.open for look in candidates])
    references = np.array(known).reshape(-1, looks.shape[1])
    looks, references = _in_spreads(looks, references)
    uncertainty = np.array([look.uncertainty for look in candidates])
    doubt = uncertainty / max(float(uncertainty.max()), 1e-9)
    chosen: list[Suggestion] = []
    left = np.ones(len(candidates), bool)
    while len(chosen) < n and left.any():
        novelty, deviation = _novelty(looks, references)
        # The most typical first when nothing is known, then what is unlike it.
        score = (
            novelty / (1 + novelty) if len(references) else 1 / (1 + _distance(looks))
        )
        if has_maps:
            score = (score + doubt) / 2
        best = int(np.argmax(np.where(left, score, -1)))
        left[best] = False
        is_first = not len(references)
        chosen.append(
            Suggestion(
                candidates[best].box,
                float(score[best]),
                candidates[best].uncertainty if has_maps else None,
                None if is_first else float(novelty[best]),
                _reasons(
                    float((uncertainty < uncertainty[best]).mean()),
                    None if is_first else deviation[best],
                ),
            )
        )
        references = np.concatenate([references, looks[best : best + 1]])
    return chosen


def _in_spreads(
    looks: NDArray[np.float64], references: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return looks as distances from the middle of the volume in robust spreads."""
    both = np.concatenate([looks, references])
    low, middle, high = np.quantile(both, (0.1, 0.5, 0.9), axis=0)
    spread = np.maximum((high - low) / 2, 0.05 * np.abs(middle) + 1e-9)
    return (looks - middle) / spread, (references - middle) / spread


def _distance(looks: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.sqrt((looks**2).mean(axis=-1))
    return result


def _novelty(
    looks: NDArray[np.float64], references: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance to the nearest reference, and the way there."""
    if not len(references):
        return np.zeros(len(looks)), np.zeros_like(looks)
    away = looks[:, None] - references[None]
    nearest = _distance(away).argmin(axis=1)
    away = away[np.arange(len(looks)), nearest]
    return _distance(away), away


def _reasons(above: float, deviation: NDArray[np.float64] | None) -> tuple[str, ...]:
    reasons = []
    if above >= 0.5:
        reasons.append(f"less sure than {100 * above:.0f} % of the volume")
    if deviation is None:
        reasons.append("typical of the volume")
    else:
        order = np.argsort(-np.abs(deviation), kind="stable")
        much = max(_MUCH, float(np.abs(deviation).max()) / 2)
        told = [i for i in order if abs(deviation[i]) >= much][:2]
        words = [_WORDS[i][0 if deviation[i] > 0 else 1] for i in told]
        if words:
            reasons.append(f"{' and '.join(words)} than what is annotated")
    return tuple(reasons) or ("not annotated yet",)
