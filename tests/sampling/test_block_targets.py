import tracemalloc

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.sample_data import make_sample
from napari_volseg.sampling.block_targets import make_targets_by_block
from napari_volseg.targets import make_targets

ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (30.0, 8.0, 8.0)


def _check(labels, voxel_size, block=(5, 12, 11), annotated=None, **options):
    """Compare with the targets of the whole volume; return both."""
    whole = make_targets(labels, voxel_size, annotated_ZYX=annotated, **options)
    values, valid = make_targets_by_block(
        labels, voxel_size, annotated_ZYX=annotated, block=block, **options
    )
    np.testing.assert_array_equal(values[:2], whole.values_CZYX[:2])
    difference = np.abs(values[2].astype(int) - whole.values_CZYX[2])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001
    np.testing.assert_array_equal(valid, whole.valid_CZYX)
    return values, valid


@pytest.mark.parametrize("kind", ["vesicles", "cells"])
@pytest.mark.parametrize("voxel_size", [ISOTROPIC, ANISOTROPIC])
@pytest.mark.parametrize("block", [(5, 12, 11), (3, 40, 7), (64, 64, 64)])
def test_targets_by_block_are_those_of_the_whole(kind, voxel_size, block):
    labels = make_sample(kind, (14, 40, 44)).labels_ZYX
    _check(labels, voxel_size, block)


@pytest.mark.parametrize("boundary", ["3d", "2d"])
def test_in_plane_targets_by_block_are_those_of_the_whole(boundary):
    labels = make_sample("cells", (9, 40, 44)).labels_ZYX
    _check(labels, ANISOTROPIC, boundary=boundary, distance="2d")


@pytest.mark.parametrize("distance", ["3d", "2d"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_by_block_is_what_is_known_of_the_whole(seed, distance):
    labels = make_sample("vesicles", (14, 40, 44), seed=seed).labels_ZYX
    rng = np.random.default_rng(seed)
    annotated = np.zeros(labels.shape, bool)
    annotated[2:12, 3:33, 5:40] = True
    annotated[rng.integers(2, 12), 8:20] = False
    _, valid = _check(labels, ANISOTROPIC, annotated=annotated, distance=distance)
    assert 0 < valid[2].mean() < 1


def test_an_object_far_deeper_than_a_block_is_measured_exactly():
    labels = np.zeros((60, 64, 64), np.int32)
    z, y, x = np.indices(labels.shape)
    labels[(z - 30) ** 2 + (y - 32) ** 2 + (x - 32) ** 2 < 27**2] = 5
    values, _ = _check(labels, ISOTROPIC, block=(8, 8, 8))
    assert values[2].max() == 255


def test_an_object_that_fills_the_volume_is_deep_everywhere():
    values, valid = _check(np.ones((7, 9, 30), np.int32), ISOTROPIC, block=(3, 4, 5))
    assert (values[2] == 255).all()
    assert valid.all()


def test_pieces_that_meet_at_a_corner_of_four_blocks_are_one():
    labels = np.zeros((10, 12, 12), np.int32)
    labels[1:3, 2:5, 2:5] = 4
    labels[3:8, 5:11, 5:11] = 4
    values, _ = _check(labels, ISOTROPIC, block=(3, 5, 5))
    assert values[2][1:3, 2:5, 2:5].max() < 255  # its deepest lies in the other part


def test_a_neuron_through_the_whole_volume_keeps_one_scale():
    labels = np.zeros((10, 20, 100), np.int32)
    labels[3:6, 8:11, :] = 9
    labels[2:9, 6:15, 90:98] = 9
    values, _ = _check(labels, ISOTROPIC, block=(10, 10, 16))
    assert values[2][4, 9, 5] < 200


def test_empty_labels_are_background_everywhere():
    values, valid = _check(np.zeros((4, 9, 9), np.int32), ISOTROPIC)
    assert not values.any()
    assert valid.all()


def test_on_disk_no_array_of_the_whole_volume_is_in_memory(tmp_path):
    labels = np.zeros((96, 128, 128), np.int32)
    for index, z in enumerate(range(4, 92, 8), 1):
        labels[z : z + 4, 4:124:1, 4 + index : 100] = index
    make_targets_by_block(labels[:8], ISOTROPIC, folder=tmp_path)  # warm up
    tracemalloc.start()
    values, valid = make_targets_by_block(
        labels, ISOTROPIC, folder=tmp_path, block=(16, 32, 32)
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(values, np.memmap)
    assert isinstance(valid, np.memmap)
    assert peak < 4 * labels.size  # in memory: 10 for pieces and depth alone
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nm", [20, 60])
@pytest.mark.parametrize("mode", ["3d", "2d"])
@pytest.mark.parametrize("kind", ["depth", "signed"])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_thick_boundaries_and_signed_distances_by_block(nm, mode, kind, is_sparse):
    labels = make_sample("vesicles", (14, 40, 44)).labels_ZYX
    annotated = None
    if is_sparse:
        annotated = np.zeros(labels.shape, bool)
        annotated[2:12, 3:33, 5:40] = True
        annotated[5, 8:20] = False
    options = {"boundary_nm": nm, "distance_kind": kind}
    modes = {"boundary": mode, "distance": mode}
    _check(labels, ANISOTROPIC, annotated=annotated, **modes, **options)


def test_middle_lines_need_whole_objects_but_not_more_than_a_slice():
    labels = make_sample("vesicles", (6, 40, 44)).labels_ZYX
    _check(labels, ANISOTROPIC, distance="2d", distance_kind="skeleton")
    with pytest.raises(DataError, match=r"data\.cache=ram"):
        make_targets_by_block(labels, ANISOTROPIC, distance_kind="skeleton")
