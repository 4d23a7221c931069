import numpy as np
import pytest

from napari_volseg.annotated import annotated_box
from napari_volseg.geometry import Box
from napari_volseg.splitting import (
    choose_validation_boxes,
    guard_gap,
)
from napari_volseg.splitting.survey import Survey, difference
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
    (box,) = choose_validation_boxes(_volume(scattered), 0.15)
    assert box.size / scattered.size == pytest.approx(0.15, rel=0.1)
    assert box.shape[0] == 16


def test_the_held_out_box_is_like_the_whole(scattered):
    (box,) = choose_validation_boxes(_volume(scattered), 0.15)

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
    (box,) = choose_validation_boxes(volume, 0.2)
    assert annotated[box.slices].all()


def test_the_only_object_is_not_held_out():
    labels = np.zeros((8, 40, 40), np.int32)
    labels[2:6, 18:22, 18:22] = 1
    assert choose_validation_boxes(_volume(labels), 0.15) == ()


def test_the_guard_gap_follows_the_patch_and_leaves_a_single_slice_alone():
    assert guard_gap((32, 128, 128)) == (2, 8, 8)
    assert guard_gap((1, 64, 64)) == (0, 4, 4)


def test_of_a_large_volume_no_more_is_held_out_than_is_quick_to_predict():
    labels = np.zeros((200, 400, 400), np.uint8)
    labels[::10, ::10, ::10] = 1
    labels[5::10, 5::10, 5::10] = 2
    labels[0, 0, 0] = 3
    boxes = choose_validation_boxes(_volume(labels), 0.5)
    assert 2_000_000 < sum(box.size for box in boxes) <= 4_000_000


@pytest.fixture
def crowd(rng):
    """Eight hundred objects: small ones on the left, large on the right."""
    labels = np.zeros((12, 160, 160), np.int32)
    index = 0
    for y in range(0, 160, 8):
        for x in range(0, 160, 8):
            size = 3 if x < 80 else 6
            for z in (0, 6):
                index += 1
                labels[z : z + size, y : y + size, x : x + size] = index
    return labels


def test_many_objects_are_held_out_in_several_disjoint_boxes(crowd):
    boxes = choose_validation_boxes(_volume(crowd), 0.15)
    assert 2 <= len(boxes) <= 4
    covered = np.zeros(crowd.shape, int)
    for box in boxes:
        covered[box.slices] += 1
    assert covered.max() == 1
    assert covered.mean() == pytest.approx(0.15, rel=0.2)


def test_held_out_sizes_are_distributed_like_all_sizes(crowd):
    survey = Survey(_volume(crowd))
    boxes = choose_validation_boxes(_volume(crowd), 0.15)
    together = survey.describe(boxes[0])
    for box in boxes[1:]:
        together = together + survey.describe(box)
    part = together.classes / together.n_objects
    whole = survey.whole.classes / survey.whole.n_objects
    assert np.abs(part - whole).sum() < 0.15


def test_held_out_intensities_are_like_all_intensities(crowd):
    image = np.zeros(crowd.shape, np.float32)
    image[:] = np.linspace(0, 1, crowd.shape[1])[:, np.newaxis] > 0.5
    volume = LabelledVolume(Volume(image), crowd)
    boxes = choose_validation_boxes(volume, 0.15)
    held = np.concatenate([image[box.slices].ravel() for box in boxes])
    assert held.mean() == pytest.approx(image.mean(), abs=0.15)


def test_the_split_is_the_same_every_time(crowd):
    first, second = (choose_validation_boxes(_volume(crowd), 0.15) for _ in range(2))
    assert first == second


def test_traits_of_parts_add_up_to_those_of_the_whole(crowd):
    survey = Survey(_volume(crowd))
    left = survey.describe(Box((0, 0, 0), (12, 160, 75)))
    right = survey.describe(Box((0, 0, 75), (12, 160, 160)))
    both = left + right
    assert both.n_objects == pytest.approx(survey.whole.n_objects)
    assert both.known == survey.whole.known == crowd.size
    assert difference(both, survey.whole) == pytest.approx(0, abs=1e-9)
    assert difference(left, survey.whole) > 0.3


def test_a_part_without_objects_is_like_nothing():
    labels = np.zeros((4, 20, 20), np.int32)
    labels[:, :5, :5] = 1
    survey = Survey(_volume(labels))
    empty = survey.describe(Box((0, 10, 10), (4, 20, 20)))
    assert difference(empty, survey.whole) == np.inf
