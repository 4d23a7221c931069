"""Signed distances."""

import numpy as np
import pytest
from scipy import ndimage

from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets, surface_of

ANISOTROPIC = (30.0, 8.0, 8.0)


def signed(labels, voxel_size=(1.0, 1.0, 1.0), **options):
    targets = make_targets(labels, voxel_size, distance_kind="signed", **options)
    return targets.values_CZYX[2]


def test_a_slab_rises_from_outside_to_its_middle():
    labels = np.zeros((1, 3, 21), np.int32)
    labels[..., 12:17] = 4

    row = signed(labels)[0, 1]

    outside = [0.5 * (1 - min(d, 8) / 8) for d in range(12, 0, -1)]
    inside = [0.5 + 0.5 * d / 3 for d in (1, 2, 3, 2, 1)]
    after = [0.5 * (1 - d / 8) for d in (1, 2, 3, 4)]
    expected = 255 * np.array([*outside, *inside, *after])
    assert np.abs(row - expected).max() <= 0.51


@pytest.mark.parametrize("mode", ["3d", "2d"])
def test_one_half_tells_inside_from_outside(mode):
    labels = make_sample("cells", (10, 64, 64)).labels_ZYX
    distance = signed(labels, ANISOTROPIC, distance=mode)
    inside = distance / 255 > surface_of("signed")
    np.testing.assert_array_equal(inside, labels > 0)


@pytest.mark.parametrize("mode", ["3d", "2d"])
def test_inside_it_is_the_depth(mode):
    labels = make_sample("vesicles", (10, 64, 64)).labels_ZYX
    depth = make_targets(labels, ANISOTROPIC, distance=mode).values_CZYX[2]
    inside = labels > 0
    distance = signed(labels, ANISOTROPIC, distance=mode).astype(float)
    assert np.abs(2 * distance - 255 - depth)[inside].max() <= 1.6


def test_outside_it_is_measured_in_nm():
    labels = make_sample("vesicles", (12, 64, 64)).labels_ZYX
    outside = ndimage.distance_transform_edt(labels == 0, sampling=ANISOTROPIC)
    expected = 127.5 * (1 - np.minimum(outside / 64, 1))
    background = labels == 0
    difference = signed(labels, ANISOTROPIC) - expected
    assert np.abs(difference[background]).max() <= 0.51
    assert (expected[background] > 0).any()


def test_without_an_object_all_is_far_outside():
    assert not signed(np.zeros((2, 8, 8), np.int32)).any()


def test_an_object_that_fills_the_volume_is_deep_everywhere():
    assert (signed(np.full((2, 8, 8), 3)) == 255).all()


@pytest.mark.parametrize("mode", ["3d", "2d"])
def test_valid_background_is_what_more_annotation_would_not_change(mode, rng):
    labels = make_sample("vesicles", (10, 64, 64)).labels_ZYX
    blobs = ndimage.gaussian_filter(rng.random(labels.shape), (1, 5, 5))
    annotated = blobs > np.quantile(blobs, 0.2)
    options = {"distance": mode, "distance_kind": "signed"}

    part = make_targets(labels, ANISOTROPIC, **options, annotated_ZYX=annotated)
    whole = make_targets(labels, ANISOTROPIC, **options)

    valid = part.valid_CZYX[2] & (labels == 0)
    assert 0 < valid.sum() < (annotated & (labels == 0)).sum()
    np.testing.assert_array_equal(
        part.values_CZYX[2][valid], whole.values_CZYX[2][valid]
    )
    assert not part.valid_CZYX[2][~annotated].any()
