"""Where labels changed or were corrected, and the patches drawn there."""

import numpy as np
import pytest

from napari_volseg.geometry import Box
from napari_volseg.sampling import (
    Focus,
    PatchSource,
    find_changes,
    find_focus,
    prepare_volume,
)
from napari_volseg.sampling.changes import PER_BOX
from napari_volseg.volume import LabelledVolume, Volume

SHAPE = (20, 70, 70)
PATCH = (8, 16, 16)


def _volume(labels, known=None):
    return LabelledVolume(Volume(np.zeros(SHAPE, np.uint8)), labels, known)


@pytest.fixture
def before():
    labels = np.zeros(SHAPE, np.int32)
    labels[2:6, 2:6, 2:6] = 1
    labels[12:16, 50:60, 50:60] = 2
    return labels


def test_every_changed_voxel_and_object_counts_once(before):
    after = before.copy()
    after[2:6, 2:6, 2:6] = 0  # 1 is deleted
    after[12:14, 50:60, 50:60] = 7  # 2 is cut in two
    found = find_changes(_volume(before), _volume(after))
    assert found.n_voxels == 64 + 200
    assert found.n_objects == 3
    inside = np.zeros(SHAPE, bool)
    for box in found.boxes:
        inside[box.slices] = True
    assert inside[before != after].all()
    assert inside.mean() < 0.25


def test_the_same_labels_have_not_changed(before):
    assert find_changes(_volume(before), _volume(before.copy())).boxes == ()


def test_what_does_not_count_is_not_compared(before):
    known = np.ones(SHAPE, bool)
    known[:, :35] = False
    after = before.copy()
    after[2:6, 2:6, 2:6] = 9
    assert find_changes(_volume(before, known), _volume(after, known)).n_voxels == 0
    wider = known.copy()
    wider[:, 34] = True
    found = find_changes(_volume(before, known), _volume(before, wider))
    assert found.n_voxels == 20 * 70
    assert found.n_objects == 0


def test_many_changes_are_held_in_few_boxes(rng):
    shape = (64, 320, 320)
    labels = np.ones(shape, np.uint8)
    image = Volume(np.zeros(shape, np.uint8))
    after = np.where(rng.random(shape) < 0.01, 2, labels)
    found = find_changes(LabelledVolume(image, labels), LabelledVolume(image, after))
    assert 0 < len(found.boxes) <= 1000
    assert sum(box.size for box in found.boxes) == labels.size


def _prepared(labels, config, held_out=()):
    return prepare_volume(
        _volume(labels), held_out, (1, 2, 2), config, PATCH, "3d", "3d"
    )


def test_each_changed_box_is_favoured_alike_and_held_out_ones_never(
    before, tiny_config
):
    held_out = Box((0, 0, 0), (20, 70, 20))
    volume = _prepared(before, tiny_config, [held_out])
    boxes = [Box((0, 0, 0), (8, 32, 32)), Box((8, 40, 40), (9, 41, 41))]
    focus = find_focus([volume], {0: boxes}, 0.5, 10, seed=0)
    assert isinstance(focus, Focus)
    assert len(focus.places_N3) == 2 * PER_BOX
    assert (focus.places_N3[:, 2] >= 22).all()
    assert find_focus([volume], {0: [held_out]}, 0.5, 10, seed=0) is None
    again = find_focus([volume], {0: boxes}, 0.5, 10, seed=0)
    np.testing.assert_array_equal(focus.places_N3, again.places_N3)


def test_patches_follow_the_focus_for_a_while_and_are_then_as_before(
    before, tiny_config
):
    volume = _prepared(before, tiny_config)
    plain = PatchSource([volume], tiny_config, PATCH)
    boxes = {0: [Box((12, 60, 60), (20, 70, 70))]}
    focus = find_focus([volume], boxes, 0.5, 4, seed=0)
    source = PatchSource([volume], tiny_config, PATCH, foci=[focus])
    low = np.array([12, 60, 60])
    drawn = [
        source._choose(3, np.random.default_rng([3, i]))[1] >= low for i in range(400)
    ]
    assert 0.4 < np.mean([place.all() for place in drawn]) < 0.65
    for place in range(4):
        one, other = plain.draw(4, place), source.draw(4, place)
        np.testing.assert_array_equal(one.image_CZYX, other.image_CZYX)
        np.testing.assert_array_equal(one.targets_CZYX, other.targets_CZYX)


def test_corrected_places_are_favoured_at_every_step_beside_what_is_new(
    before, tiny_config
):
    volume = _prepared(before, tiny_config)
    news = find_focus([volume], {0: [Box((0, 0, 0), (4, 9, 9))]}, 0.5, 4, seed=0)
    corner = Box((12, 60, 60), (20, 70, 70))
    corrected = find_focus([volume], {0: [corner]}, 0.25, None, seed=0)
    plain = PatchSource([volume], tiny_config, PATCH)
    source = PatchSource([volume], tiny_config, PATCH, foci=[news, corrected])

    def share(source, step):
        rngs = (np.random.default_rng([step, i]) for i in range(400))
        places = np.array([source._choose(step, rng)[1] for rng in rngs])
        return np.mean((places >= corner.start).all(axis=1))

    assert share(plain, 3) < 0.05
    assert 0.08 < share(source, 3) < 0.17  # a quarter of the other half
    for step in (4, 10_000):
        assert 0.2 < share(source, step) < 0.33
    one, other = source.draw(10_000, 1), source.draw(10_000, 1)
    np.testing.assert_array_equal(one.image_CZYX, other.image_CZYX)


def test_an_image_is_not_read_again_when_only_labels_change(before, tiny_config):
    first = _prepared(before, tiny_config)
    after = np.where(before == 1, 0, before)
    second = prepare_volume(
        _volume(after), [], (1, 2, 2), tiny_config, PATCH, "3d", "3d", before=first
    )
    assert second.image_CZYX is first.image_CZYX
    fresh = _prepared(after, tiny_config)
    np.testing.assert_array_equal(second.targets_CZYX, fresh.targets_CZYX)
    np.testing.assert_array_equal(second.range_C2, fresh.range_C2)
