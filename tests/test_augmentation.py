import numpy as np
import pytest

from napari_volseg.augmentation import Patch, augment, turnable_planes
from napari_volseg.config import AugmentationConfig

OFF = dict.fromkeys(AugmentationConfig.model_fields, 0.0)


@pytest.fixture
def patch(rng):
    """A patch whose image repeats its targets, so that misalignment shows."""
    mask = (rng.random((1, 8, 16, 16)) > 0.6).astype(np.uint8) * 255
    return Patch(
        (mask / 255).astype(np.float32),
        np.repeat(mask, 3, axis=0),
        np.ones((3, 8, 16, 16), bool),
    )


def _augmented(patch, seed=0, **settings):
    config = AugmentationConfig(**{**OFF, **settings})
    planes = turnable_planes((1, 1, 1), (8, 16, 16))
    return augment(patch, config, planes, np.random.default_rng(seed))


def test_nothing_changes_when_everything_is_off(patch):
    same = _augmented(patch)
    np.testing.assert_array_equal(same.image_CZYX, patch.image_CZYX)
    np.testing.assert_array_equal(same.targets_CZYX, patch.targets_CZYX)


@pytest.mark.parametrize("kind", ["flip", "rotate90", "shifted_section"])
@pytest.mark.parametrize("seed", range(5))
def test_labels_move_with_the_image(patch, kind, seed):
    moved = _augmented(patch, seed, **{kind: 1.0})
    seen = moved.valid_CZYX[0]
    assert seen.mean() > 0.5
    np.testing.assert_array_equal(
        moved.image_CZYX[0][seen] * 255, moved.targets_CZYX[0][seen]
    )


@pytest.mark.parametrize("kind", ["intensity", "noise", "blur", "missing_section"])
def test_changes_of_the_image_leave_the_targets(patch, kind):
    changed = _augmented(patch, **{kind: 1.0})
    assert not np.array_equal(changed.image_CZYX, patch.image_CZYX)
    np.testing.assert_array_equal(changed.targets_CZYX, patch.targets_CZYX)
    assert np.isfinite(changed.image_CZYX).all()


def test_the_same_seed_gives_the_same_patch(patch):
    all_on = dict.fromkeys(AugmentationConfig.model_fields, 0.7)
    first, second = (_augmented(patch, 3, **all_on) for _ in range(2))
    np.testing.assert_array_equal(first.image_CZYX, second.image_CZYX)
    other = _augmented(patch, 4, **all_on)
    assert not np.array_equal(first.image_CZYX, other.image_CZYX)


def test_the_original_is_left_alone(patch):
    before = patch.image_CZYX.copy(), patch.targets_CZYX.copy(), patch.valid_CZYX.copy()
    _augmented(patch, **dict.fromkeys(AugmentationConfig.model_fields, 1.0))
    for array, copy in zip(
        (patch.image_CZYX, patch.targets_CZYX, patch.valid_CZYX), before, strict=True
    ):
        np.testing.assert_array_equal(array, copy)


def test_what_comes_in_from_the_other_side_is_not_learnt(patch):
    moved = _augmented(patch, 1, shifted_section=1.0)
    assert not moved.valid_CZYX.all()


def test_only_square_planes_are_turned():
    assert turnable_planes((30, 8, 8), (32, 64, 64)) == [(1, 2)]
    assert turnable_planes((30, 8, 8), (32, 64, 96)) == []
    assert len(turnable_planes((8, 8, 8), (64, 64, 64))) == 3
