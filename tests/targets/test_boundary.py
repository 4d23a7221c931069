"""Boundaries of a thickness in nm."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

ANISOTROPIC = (30.0, 8.0, 8.0)


def boundary(labels, voxel_size, nm, mode="3d", **options):
    targets = make_targets(labels, voxel_size, boundary=mode, boundary_nm=nm, **options)
    return targets.values_CZYX[1] > 0


def by_definition(labels, voxel_size, nm, axes):
    """Measure from every voxel's middle to every face between two ids."""
    found = np.zeros(labels.shape, bool)
    voxels = list(itertools.product(*(range(n) for n in labels.shape)))
    for voxel, axis in itertools.product(voxels, axes):
        other = tuple(i + (a == axis) for a, i in enumerate(voxel))
        if other[axis] == labels.shape[axis] or labels[voxel] == labels[other]:
            continue
        face = (np.array(voxel) + other) / 2
        offset = (np.array(voxels) - face) * voxel_size
        near = np.linalg.norm(offset, axis=1) <= nm / 2 + 1e-3
        if 0 not in axes:
            near &= offset[:, 0] == 0
        for place in (voxel, other, *np.array(voxels)[near]):
            found[tuple(place)] = True
    return found


@pytest.mark.parametrize("nm", [0, 8, 24, 40, 70])
@pytest.mark.parametrize(("mode", "axes"), [("3d", (0, 1, 2)), ("2d", (1, 2))])
def test_a_voxel_belongs_to_it_by_the_distance_of_its_middle(nm, mode, axes, rng):
    labels = np.zeros((4, 9, 10), np.int32)
    labels[rng.random(labels.shape) > 0.97] = 1
    labels[:2, :, 7:] = 2

    found = boundary(labels, ANISOTROPIC, nm, mode)

    expected = by_definition(labels, ANISOTROPIC, nm, axes)
    np.testing.assert_array_equal(found, expected)
    assert found.any()
    assert not found.all()


@pytest.mark.parametrize(
    ("nm", "n_in_plane", "n_across"), [(0, 2, 2), (16, 2, 2), (32, 4, 2), (100, 12, 4)]
)
def test_thickness_is_in_nm_along_every_axis(nm, n_in_plane, n_across):
    halves = np.ones((20, 20, 20), np.int32)
    halves[..., 10:] = 2

    found = boundary(halves, ANISOTROPIC, nm)
    assert found[10, 10].sum() == n_in_plane
    across = boundary(halves.T.copy(), ANISOTROPIC, nm)
    assert across[:, 10, 10].sum() == n_across


def test_the_default_is_one_voxel_on_either_side():
    labels = make_sample("cells", (8, 40, 40)).labels_ZYX
    np.testing.assert_array_equal(
        boundary(labels, ANISOTROPIC, 0),
        make_targets(labels, ANISOTROPIC).values_CZYX[1] > 0,
    )


def test_in_a_plane_every_slice_is_alone():
    labels = make_sample("cells", (6, 40, 40)).labels_ZYX

    found = boundary(labels, ANISOTROPIC, 50, "2d")

    for z in range(len(labels)):
        alone = boundary(labels[z : z + 1], ANISOTROPIC, 50, "2d")
        np.testing.assert_array_equal(found[z], alone[0])


def test_it_does_not_depend_on_what_is_far_away():
    labels = make_sample("vesicles", (12, 64, 64)).labels_ZYX
    whole = boundary(labels, ANISOTROPIC, 60)
    part = boundary(labels[2:, 10:50, 8:60], ANISOTROPIC, 60)
    # The margin holds every face that reaches the rest.
    np.testing.assert_array_equal(part[2:, 5:-5, 5:-5], whole[4:, 15:45, 13:55])


@pytest.mark.parametrize("nm", [0, 20, 60])
@pytest.mark.parametrize("mode", ["3d", "2d"])
def test_valid_is_what_more_annotation_would_not_change(nm, mode, rng):
    labels = make_sample("vesicles", (10, 48, 48)).labels_ZYX
    blobs = ndimage.gaussian_filter(rng.random(labels.shape), (1, 4, 4))
    annotated = blobs > np.quantile(blobs, 0.3)

    part = make_targets(
        labels, ANISOTROPIC, boundary=mode, boundary_nm=nm, annotated_ZYX=annotated
    )
    whole = make_targets(labels, ANISOTROPIC, boundary=mode, boundary_nm=nm)

    valid = part.valid_CZYX[1]
    assert 0.1 * annotated.sum() < valid.sum() < annotated.sum()
    np.testing.assert_array_equal(
        part.values_CZYX[1][valid], whole.values_CZYX[1][valid]
    )
