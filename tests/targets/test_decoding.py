"""The watershed gives back the objects that the targets were made from."""

import numpy as np
import pytest

from napari_volseg.config import InstancesConfig
from napari_volseg.instances import fit_thresholds, segment
from napari_volseg.metrics import evaluate
from napari_volseg.targets import make_targets

VOXEL_SIZE = (30.0, 8.0, 8.0)


@pytest.fixture(scope="module")
def spheres() -> np.ndarray:
    """Eight balls of 150 nm radius that touch their neighbours along every axis."""
    shape = (22, 80, 80)
    middle = np.indices(shape) * np.reshape(VOXEL_SIZE, (3, 1, 1, 1))
    labels = np.zeros(shape, np.int32)
    nearest = np.full(shape, np.inf)
    for i, (z, y, x) in enumerate(np.ndindex(2, 2, 2), start=1):
        centre = np.reshape([170 + 292 * z, 170 + 292 * y, 170 + 292 * x], (3, 1, 1, 1))
        distance = np.sqrt(((middle - centre) ** 2).sum(0))
        mine = (distance <= 150) & (distance < nearest)
        labels[mine], nearest[mine] = i, distance[mine]
    pairs = {
        (int(a), int(b))
        for axis in range(3)
        for a, b in zip(
            np.moveaxis(labels, axis, 0)[:-1].ravel(),
            np.moveaxis(labels, axis, 0)[1:].ravel(),
            strict=True,
        )
        if a != b and a and b
    }
    assert len(pairs) >= 12  # every two neighbours touch
    return labels


@pytest.mark.parametrize("kind", ["depth", "signed", "skeleton"])
@pytest.mark.parametrize("boundary_nm", [0, 32])
@pytest.mark.parametrize("mode", ["3d", "2d"])
def test_perfect_targets_give_back_touching_objects(kind, boundary_nm, mode, spheres):
    maps = make_targets(
        spheres,
        VOXEL_SIZE,
        boundary=mode,
        distance_kind=kind,
        boundary_nm=boundary_nm,
    ).values_CZYX

    scores = evaluate(segment(maps, InstancesConfig()), spheres)

    assert scores["f1_50"] == 1
    assert scores["n_pred"] == 8
    assert scores["ap"] > 0.95


@pytest.mark.parametrize("kind", ["depth", "signed", "skeleton"])
def test_fitted_thresholds_do_as_well(kind, spheres):
    part = spheres[:12]
    maps = make_targets(part, VOXEL_SIZE, distance_kind=kind).values_CZYX
    start = InstancesConfig(seed_distance=1.0)
    assert segment(maps, start).max() == 0
    assert fit_thresholds(maps, part, None, start).scores["f1_50"] == 1
