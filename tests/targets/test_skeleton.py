"""Nearness to the middle line of an object."""

import numpy as np
import pytest

from napari_volseg.config import InstancesConfig
from napari_volseg.instances import segment
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

ANISOTROPIC = (30.0, 8.0, 8.0)


def tube(shape, radius, voxel_size, centre=None):
    """Return a tube along x; the radius, in nm, may differ from place to place."""
    z, y, _ = np.indices(shape)
    centre = centre or ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    from_axis = np.hypot(
        (z - centre[0]) * voxel_size[0], (y - centre[1]) * voxel_size[1]
    )
    return (from_axis <= radius).astype(np.int32)


def skeletal(labels, voxel_size=ANISOTROPIC, **options):
    targets = make_targets(labels, voxel_size, distance_kind="skeleton", **options)
    return targets.values_CZYX[2]


@pytest.mark.parametrize("voxel_size", [(8.0, 8.0, 8.0), ANISOTROPIC])
def test_a_tube_is_1_along_its_axis_and_falls_to_its_surface(voxel_size):
    labels = tube((31, 41, 60), 100, voxel_size)

    distance = skeletal(labels, voxel_size)

    axis = distance[15, 20]
    assert (axis >= 215).all()
    assert np.median(axis) >= 245
    depth = make_targets(labels, voxel_size).values_CZYX[2]
    rim = (labels > 0) & (depth <= 30)
    assert distance[rim].max() < 0.5 * 255
    assert not distance[labels == 0].any()
    assert (distance[labels > 0] > 0).all()


def test_its_values_follow_from_depth_and_distance_to_the_axis():
    """In the middle of a tube of 12 voxels radius: (12 - r) / 12 to the power 0.8."""
    labels = tube((31, 31, 40), 12, (1.0, 1.0, 1.0))
    middle = skeletal(labels, (1.0, 1.0, 1.0))[15, :, 20] / 255
    for r in range(1, 12):
        expected = (1 - r / 13) ** 0.8
        assert middle[15 + r] == pytest.approx(expected, abs=0.13)
        assert middle[15 - r] == pytest.approx(expected, abs=0.13)


def test_a_bottleneck_is_no_valley():
    """Two thick ends and a thin middle: one object, where depth would see two."""
    x = np.arange(90)
    radius = np.where(np.abs(x - 45) < 20, 40, 110)
    labels = tube((11, 41, 90), radius, ANISOTROPIC)

    def n_found(kind):
        targets = make_targets(labels, ANISOTROPIC, distance_kind=kind)
        return int(segment(targets.values_CZYX, InstancesConfig()).max())

    assert n_found("depth") == 2
    assert n_found("skeleton") == 1


def test_faces_of_the_volume_are_no_surface():
    """A longer piece of the same tube has the same values."""
    long = skeletal(tube((9, 31, 80), 80, ANISOTROPIC)).astype(int)
    short = skeletal(tube((9, 31, 40), 80, ANISOTROPIC)).astype(int)
    assert np.abs(short - long[..., 20:60]).max() <= 40
    assert np.abs(short - long[..., 20:60]).mean() <= 3


def test_touching_objects_have_middle_lines_of_their_own():
    one = tube((9, 40, 50), 75, ANISOTROPIC, (4, 10))
    other = tube((9, 40, 50), 75, ANISOTROPIC, (4, 27))
    both = np.where(one, 1, 2 * other)
    assert ((both[:, :-1] == 1) & (both[:, 1:] == 2)).any()

    together = skeletal(both)

    np.testing.assert_array_equal(
        together[one > 0], skeletal(np.where(both == 1, 1, 0))[one > 0]
    )


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 5), (3, 1, 1), (2, 2, 2), (1, 4, 4), (3, 3, 3)]
)
@pytest.mark.parametrize("mode", ["3d", "2d"])
def test_tiny_objects_have_a_middle(shape, mode):
    labels = np.zeros((5, 9, 9), np.int32)
    labels[tuple(slice(1, 1 + n) for n in shape)] = 7

    distance = skeletal(labels, distance=mode)

    assert (distance[labels > 0] > 0).all()
    assert distance.max() == 255


def test_an_object_that_fills_the_volume_is_the_middle_everywhere():
    assert (skeletal(np.full((3, 6, 6), 2)) == 255).all()


def test_in_a_plane_every_slice_is_alone():
    labels = make_sample("cells", (4, 48, 48)).labels_ZYX
    distance = skeletal(labels, distance="2d")
    for z in range(len(labels)):
        alone = skeletal(labels[z : z + 1], distance="2d")
        np.testing.assert_array_equal(distance[z], alone[0])


def test_objects_at_the_unannotated_are_unknown_and_the_others_exact():
    labels = make_sample("vesicles", (14, 80, 80)).labels_ZYX
    annotated = np.zeros(labels.shape, bool)
    annotated[1:13, 8:70, 8:70] = True
    options = {"distance_kind": "skeleton"}

    part = make_targets(labels, ANISOTROPIC, **options, annotated_ZYX=annotated)
    whole = make_targets(labels, ANISOTROPIC, **options)

    cut = np.unique(labels[~annotated])
    intact = annotated & (labels > 0) & ~np.isin(labels, cut)
    valid = part.valid_CZYX[2]
    assert not valid[annotated & (labels > 0) & np.isin(labels, cut)].any()
    assert valid[annotated & (labels == 0)].all()
    assert (valid & intact).sum() > 0.5 * intact.sum() > 0
    np.testing.assert_array_equal(
        part.values_CZYX[2][valid & intact], whole.values_CZYX[2][valid & intact]
    )
