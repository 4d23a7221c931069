import numpy as np
import pytest

from napari_volseg.splitting import annotated_box, choose_validation_box, guard_gap
from napari_volseg.volume import LabelledVolume, Volume


def _volume(labels, annotated=None):
    return LabelledVolume(Volume(np.zeros(labels.shape)), labels, annotated)


@pytest.fixture
def scattered(rng):
    """Many small cubes, dense in one half and sparse in the other."""
    labels = np.zeros((16, 96, 96), np.int32)
    for index in range(1, 120):
        x = rng.integers(0, 44) if index % 6 else rng.integers(48, 92)
        z, y = rng.integers(0, 12), rng.integers(0, 92)
        labels[z : z + 4, y : y + 4, x : x + 4] = index
    return labels


def test_the_held_out_box_has_the_share_asked_for(scattered):
    box = choose_validation_box(_volume(scattered), 0.15)
    assert box.size / scattered.size == pytest.approx(0.15, rel=0.1)
    assert box.shape[0] == 16


def test_the_held_out_box_is_like_the_whole(scattered):
    box = choose_validation_box(_volume(scattered), 0.15)

    def density(labels):
        return np.count_nonzero(np.unique(labels)) / labels.size

    whole = density(scattered)
    chosen = abs(np.log(density(scattered[box.slices]) / whole))
    dense = abs(np.log(density(scattered[:, :37, :37]) / whole))
    assert chosen <= dense


def test_only_the_annotated_part_is_split(scattered):
    annotated = np.zeros(scattered.shape, bool)
    annotated[4:12, 10:60, 20:80] = True
    volume = _volume(scattered, annotated)
    outer = annotated_box(volume)
    assert (outer.start, outer.stop) == ((4, 10, 20), (12, 60, 80))
    box = choose_validation_box(volume, 0.2)
    assert annotated[box.slices].all()


def test_the_only_object_is_not_held_out():
    labels = np.zeros((8, 40, 40), np.int32)
    labels[2:6, 18:22, 18:22] = 1
    assert choose_validation_box(_volume(labels), 0.15) is None


def test_the_guard_gap_follows_the_patch_and_leaves_a_single_slice_alone():
    assert guard_gap((32, 128, 128)) == (2, 8, 8)
    assert guard_gap((1, 64, 64)) == (0, 4, 4)


def test_of_a_large_volume_no_more_is_held_out_than_is_quick_to_predict():
    labels = np.zeros((200, 400, 400), np.uint8)
    labels[::10, ::10, ::10] = 1
    labels[5::10, 5::10, 5::10] = 2
    labels[0, 0, 0] = 3
    box = choose_validation_box(_volume(labels), 0.5)
    assert 2_000_000 < box.size <= 4_000_000
