import cc3d
import numpy as np
import pytest
from scipy import ndimage

from napari_volseg.sample_data import make_sample

KINDS = ["vesicles", "cells"]


@pytest.fixture(scope="module", params=KINDS)
def sample(request):
    return make_sample(request.param, (24, 96, 96))


def test_a_sample_is_a_labelled_volume_of_bytes(sample):
    assert sample.image.data.shape == sample.labels_ZYX.shape == (24, 96, 96)
    assert sample.image.data.dtype == np.uint8
    assert sample.image.voxel_size == (30.0, 8.0, 8.0)
    assert sample.labels_ZYX.dtype == np.int32
    assert sample.annotated_ZYX is None


def test_ids_have_no_gaps_and_objects_are_not_specks(sample):
    sizes = np.bincount(sample.labels_ZYX.ravel())

    assert len(sizes) > 10
    assert sizes[1:].min() >= 20
    assert sizes[0] > 0


def test_objects_are_in_one_piece(sample):
    pieces = cc3d.connected_components(sample.labels_ZYX, connectivity=26)
    largest = np.zeros(sample.labels_ZYX.max() + 1)
    names = np.zeros(int(pieces.max()) + 1, int)
    names[pieces] = sample.labels_ZYX
    np.maximum.at(largest, names, np.bincount(pieces.ravel()))

    share = largest[1:] / np.bincount(sample.labels_ZYX.ravel())[1:]
    assert share.min() > 0.9


def test_some_objects_touch(sample):
    labels = sample.labels_ZYX
    left, right = labels[..., :-1], labels[..., 1:]

    assert ((left != right) & (left > 0) & (right > 0)).any()


def test_rims_are_darker_than_insides(sample):
    image = sample.image.data.astype(float)
    inside = sample.labels_ZYX > 0
    depth = ndimage.distance_transform_edt(inside, sampling=(3.75, 1, 1))
    edges = np.zeros_like(inside)
    edges[..., 1:] = sample.labels_ZYX[..., 1:] != sample.labels_ZYX[..., :-1]

    assert image[edges].mean() < image[depth > 6].mean() - 40


def test_slices_differ_in_brightness(sample):
    means = sample.image.data.mean(axis=(1, 2))

    assert np.abs(np.diff(means)).mean() > 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind):
    first, again, other = (make_sample(kind, (8, 48, 48), seed) for seed in (3, 3, 4))

    np.testing.assert_array_equal(first.image.data, again.image.data)
    np.testing.assert_array_equal(first.labels_ZYX, again.labels_ZYX)
    assert (first.image.data != other.image.data).any()
    assert (first.labels_ZYX != other.labels_ZYX).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (4, 16, 16), (20, 3, 30)])
def test_small_shapes_have_objects_too(kind, shape):
    sample = make_sample(kind, shape, voxel_size=(10.0, 10.0, 10.0))

    assert sample.labels_ZYX.shape == shape
    assert sample.labels_ZYX.any()


def test_objects_are_as_deep_as_wide_in_nm():
    flat = make_sample("vesicles", (24, 96, 96), voxel_size=(32.0, 8.0, 8.0))

    extents = []
    for box in ndimage.find_objects(flat.labels_ZYX):
        at_face = any(
            s.start == 0 or s.stop == n
            for s, n in zip(box, flat.labels_ZYX.shape, strict=True)
        )
        if not at_face:
            extents.append([s.stop - s.start for s in box])
    z, y, x = np.mean(extents, axis=0)
    assert z * 32 == pytest.approx(x * 8, rel=0.35)
    assert y == pytest.approx(x, rel=0.2)


@pytest.fixture(scope="module")
def nuclei():
    return make_sample("nuclei", (24, 96, 96), voxel_size=(1000.0, 406.0, 406.0))


def test_nuclei_are_bright_touch_and_are_no_specks(nuclei):
    image, labels = nuclei.image.data.astype(float), nuclei.labels_ZYX
    sizes = np.bincount(labels.ravel())
    left, right = labels[..., :-1], labels[..., 1:]
    assert len(sizes) > 40
    assert sizes[1:].min() >= 30
    assert sizes[0] > labels.size / 4
    assert image[labels > 0].mean() > 3 * image[labels == 0].mean()
    assert ((left != right) & (left > 0) & (right > 0)).any()


def test_light_fades_with_depth(nuclei):
    image, labels = nuclei.image.data.astype(float), nuclei.labels_ZYX
    top, bottom = (
        image[part][labels[part] > 0].mean() for part in (slice(6), slice(-6, None))
    )
    assert bottom < 0.8 * top


def test_the_same_seed_gives_the_same_nuclei():
    one, same, other = (make_sample("nuclei", (8, 48, 48), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.image.data, same.image.data)
    assert np.array_equal(one.labels_ZYX, same.labels_ZYX)
    assert not np.array_equal(one.labels_ZYX, other.labels_ZYX)
