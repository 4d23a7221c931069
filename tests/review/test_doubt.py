"""The doubt of instances whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from napari_volseg.review import DOUBTFUL, add_doubt, instance_table

VOXEL_SIZE = (30.0, 15.0, 15.0)
CELL = (14, 24, 24)
GRID = (3, 6, 6)
MERGED, FRAGMENTS, WEAK = (8, 20, 44, 80), (13, 50, 101), (3, 33, 70, 95)


def spoil(rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any], list[int]]:
    """Balls as a network sees them, some of them spoilt; and the ids of those.

    Mask and boundary are blurred and noisy everywhere, as good maps are. A merge
    holds two halves with a boundary between; a fragment is a rag of a ball that has
    lost most of it; a weak one has a pale mask.
    """
    shape = tuple(n * c for n, c in zip(GRID, CELL, strict=True))
    labels = np.zeros(shape, np.int32)
    mask, boundary = np.zeros(shape), np.zeros(shape)
    for label, place in enumerate(np.ndindex(GRID), start=1):
        box = tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, CELL, strict=True))
        z, y, x = (np.indices(CELL).T - (np.array(CELL) - 1) / 2).T
        radius = np.sqrt((2 * z) ** 2 + y**2 + x**2)
        size = rng.uniform(7, 10.5)
        ball = radius < size
        shell = np.abs(radius - size) < 1.2
        if label in MERGED:
            shell |= ball & (np.abs(x) < 1.2)
        confidence = 0.55 if label in WEAK else rng.uniform(0.85, 0.97)
        rag = ndimage.gaussian_filter(rng.random(CELL), 0.8) > 0.53
        labels[box][ball & rag if label in FRAGMENTS else ball] = label
        mask[box] = confidence * ball
        boundary[box] = 0.8 * shell
    maps = np.stack([mask, boundary, mask])
    maps = np.stack([ndimage.gaussian_filter(m, (0.3, 0.8, 0.8)) for m in maps])
    maps = np.clip(255 * maps + rng.normal(0, 8, maps.shape), 0, 255)
    return labels, maps.astype(np.uint8), sorted(MERGED + FRAGMENTS + WEAK)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_wrong_is_doubtful_and_comes_first(seed: int) -> None:
    labels, maps, bad = spoil(np.random.default_rng(seed))

    table = instance_table(labels, maps, VOXEL_SIZE)

    is_bad = np.isin(table["index"], bad)
    assert len(is_bad) == np.prod(GRID)
    worst = table["index"][np.argsort(-table["doubt"])][: len(bad)]
    assert sorted(worst.tolist()) == bad
    assert table["doubt"][is_bad].min() >= DOUBTFUL
    assert np.count_nonzero(table["doubt"][~is_bad] >= DOUBTFUL) <= 0.1 * sum(~is_bad)


def rows(n: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """A table of good instances of one network, whatever its level."""
    return {
        "index": np.arange(1, n + 1),
        "mask_mean": rng.normal(0.75, 0.04, n),
        "boundary_inside": np.abs(rng.normal(0.35, 0.08, n)),
        "touches_border": rng.random(n) < 0.2,
        "volume_um3": np.exp(rng.normal(0, 0.8, n)),
        "surface_um2": np.exp(rng.normal(0, 0.8, n) / 1.5),
    }


@pytest.mark.parametrize("level", [0.0, 0.15, -0.2])
def test_few_are_doubtful_whatever_level_the_maps_have(
    level: float, rng: np.random.Generator
) -> None:
    table = rows(400, rng)
    table["mask_mean"] = table["mask_mean"] + level

    doubt = add_doubt(table)["doubt"]

    assert 0 < np.count_nonzero(doubt >= DOUBTFUL) <= 40


def test_only_what_speaks_against_an_instance_is_doubted(
    rng: np.random.Generator,
) -> None:
    table = rows(50, rng)
    table["touches_border"][:] = False
    table["mask_mean"][:] = 0.8
    table["boundary_inside"][:] = 0.3
    table["volume_um3"][:] = 1
    table["surface_um2"][:] = 6
    usual = add_doubt(table)["doubt"][0]
    table["mask_mean"][0], table["boundary_inside"][1] = 0.99, 0.0
    table["surface_um2"][2] = 4.9  # smoother
    table["mask_mean"][3], table["boundary_inside"][4] = 0.7, 0.5
    table["surface_um2"][5], table["volume_um3"][6] = 9, 0.3

    doubt = add_doubt(table)["doubt"]

    assert usual == 0
    assert (doubt[:3] == 0).all()
    assert (doubt[3:7] >= DOUBTFUL).all()
    assert (doubt[7:] == 0).all()


def test_among_a_few_the_maps_speak_for_themselves(rng: np.random.Generator) -> None:
    table = rows(3, rng)
    table["mask_mean"] = np.array([1.0, 0.5, 1.0])
    table["boundary_inside"] = np.array([0.0, 0.0, 0.5])

    assert add_doubt(table)["doubt"].tolist() == pytest.approx([0, 0.5, 0.5])
