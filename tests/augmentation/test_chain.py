import numpy as np
import pytest

from napari_volseg.augmentation import Patch, augment, turnable_planes
from napari_volseg.config import AugmentationConfig, build_config, dump_config
from napari_volseg.config.augmentation import AUGMENTATION_PRESETS
from napari_volseg.errors import DataError

KINDS = [name for name in AugmentationConfig.model_fields if name != "preset"]
MOVING = ["flip", "rotate90", "shifted_section", "slipped_section"]
CROPPING = ["affine", "elastic"]
IMAGE_ONLY = [name for name in KINDS if name not in MOVING + CROPPING]
ISOTROPIC = (1.0, 1.0, 1.0)


@pytest.fixture
def patch(rng):
    """A patch whose image repeats its targets, so that misalignment shows."""
    mask = (rng.random((1, 8, 32, 32)) > 0.6).astype(np.uint8) * 255
    return Patch(
        (mask / 255).astype(np.float32),
        np.repeat(mask, 3, axis=0),
        np.ones((3, 8, 32, 32), bool),
    )


def _augmented(patch, seed=0, voxel_size=ISOTROPIC, **settings):
    config = AugmentationConfig(preset="none", **settings)
    return augment(patch, config.chances, voxel_size, np.random.default_rng(seed))


def test_nothing_changes_when_everything_is_off(patch):
    same = _augmented(patch)
    np.testing.assert_array_equal(same.image_CZYX, patch.image_CZYX)
    np.testing.assert_array_equal(same.targets_CZYX, patch.targets_CZYX)


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("seed", range(5))
def test_labels_move_with_the_image(patch, kind, seed):
    moved = _augmented(patch, seed, **{kind: 1.0})
    seen = moved.valid_CZYX[0]
    assert seen.mean() > 0.5
    np.testing.assert_array_equal(
        moved.image_CZYX[0][seen] * 255, moved.targets_CZYX[0][seen]
    )


@pytest.mark.parametrize("kind", MOVING)
def test_what_should_move_does_move(patch, kind):
    changed = [_augmented(patch, seed, **{kind: 1.0}) for seed in range(6)]
    assert any(
        not np.array_equal(each.targets_CZYX, patch.targets_CZYX) for each in changed
    )


@pytest.mark.parametrize("kind", IMAGE_ONLY)
@pytest.mark.parametrize("seed", range(3))
def test_changes_of_the_image_leave_the_targets(patch, kind, seed):
    changed = _augmented(patch, seed, **{kind: 1.0})
    assert not np.array_equal(changed.image_CZYX, patch.image_CZYX)
    np.testing.assert_array_equal(changed.targets_CZYX, patch.targets_CZYX)
    assert changed.valid_CZYX.all()
    assert np.isfinite(changed.image_CZYX).all()
    assert changed.image_CZYX.dtype == np.float32


@pytest.mark.parametrize("preset", AUGMENTATION_PRESETS)
def test_the_same_seed_gives_the_same_patch(patch, preset):
    chances = AugmentationConfig(preset=preset).chances
    first, second = (
        augment(patch, chances, ISOTROPIC, np.random.default_rng(3)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.image_CZYX, second.image_CZYX)
    np.testing.assert_array_equal(first.targets_CZYX, second.targets_CZYX)
    if preset != "none":
        others = [
            augment(patch, chances, ISOTROPIC, np.random.default_rng(seed)).image_CZYX
            for seed in range(4, 8)
        ]
        assert any(not np.array_equal(first.image_CZYX, other) for other in others)


def test_the_original_is_left_alone(patch):
    arrays = (patch.image_CZYX, patch.targets_CZYX, patch.valid_CZYX)
    before = [array.copy() for array in arrays]
    for seed in range(4):
        _augmented(patch, seed, **dict.fromkeys(KINDS, 1.0))
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("kind", ["shifted_section", "slipped_section"])
def test_what_comes_in_from_the_other_side_is_not_learnt(patch, kind):
    moved = [_augmented(patch, seed, **{kind: 1.0}) for seed in range(6)]
    assert any(not each.valid_CZYX.all() for each in moved)


def test_only_one_slice_slips(patch):
    for seed in range(6):
        slipped = _augmented(patch, seed, slipped_section=1.0)
        differ = (slipped.targets_CZYX != patch.targets_CZYX).any(axis=(0, 2, 3))
        assert differ.sum() <= 1


def test_only_square_planes_are_turned():
    assert turnable_planes((30, 8, 8), (32, 64, 64)) == [(1, 2)]
    assert turnable_planes((30, 8, 8), (32, 64, 96)) == []
    assert len(turnable_planes((8, 8, 8), (64, 64, 64))) == 3


def test_slices_stay_slices_where_targets_were_made_slice_by_slice(patch):
    chances = AugmentationConfig(preset="none", rotate90=1.0).chances
    cube = patch.map(lambda array: np.ascontiguousarray(array[:, :8, :8, :8]))
    slices = cube.image_CZYX.sum(axis=(0, 2, 3))
    for in_plane in (True, False):
        turned = [
            augment(
                cube, chances, ISOTROPIC, np.random.default_rng(seed), in_plane=in_plane
            ).image_CZYX.sum(axis=(0, 2, 3))
            for seed in range(6)
        ]
        assert all(np.allclose(sums, slices) for sums in turned) == in_plane


@pytest.mark.parametrize("kind", ["missing_section", "motion_blur", "defect"])
def test_a_fault_of_sections_leaves_the_others(patch, kind):
    for seed in range(4):
        changed = _augmented(patch, seed, **{kind: 1.0})
        differ = (changed.image_CZYX != patch.image_CZYX).any(axis=(0, 2, 3))
        assert 1 <= differ.sum() <= 3


def test_a_block_of_noise_is_as_deep_as_wide_in_nm(patch):
    flat = _augmented(patch, 1, voxel_size=(40.0, 5.0, 5.0), cut_noise=1.0)
    cube = _augmented(patch, 1, cut_noise=1.0)
    z, y, _ = (
        np.ptp(np.nonzero((each.image_CZYX != patch.image_CZYX)[0])[axis]) + 1
        for each, axis in ((flat, 0), (flat, 1), (cube, 0))
    )
    assert abs(z * 40 - y * 5) <= 40
    depth = np.ptp(np.nonzero((cube.image_CZYX != patch.image_CZYX)[0])[0]) + 1
    assert depth > z


def test_a_gradient_is_a_plane(patch):
    changed = _augmented(patch, 2, brightness_gradient=1.0)
    added = (changed.image_CZYX - patch.image_CZYX)[0]
    for axis in range(3):
        steps = np.diff(added, axis=axis)
        np.testing.assert_allclose(steps, steps.flat[0], atol=1e-5)
    assert 0.09 < np.ptp(added) < 0.61


def test_sections_change_contrast_one_by_one(patch):
    changed = _augmented(patch, 2, section_contrast=1.0).image_CZYX[0]
    spreads = np.ptp(changed, axis=(1, 2))
    assert len(set(spreads.round(4).tolist())) == len(spreads)


def test_a_single_slice_can_be_augmented():
    flat = Patch(
        np.ones((1, 1, 32, 32), np.float32),
        np.ones((3, 1, 32, 32), np.uint8),
        np.ones((3, 1, 32, 32), bool),
    )
    changed = _augmented(flat, **dict.fromkeys(KINDS, 1.0))
    assert changed.image_CZYX.shape == (1, 1, 32, 32)
    assert np.isfinite(changed.image_CZYX).all()


def test_a_key_that_is_set_overrides_the_preset():
    config = AugmentationConfig(preset="em", noise=0.0, affine=0.9)
    assert config.chances["noise"] == 0
    assert config.chances["affine"] == 0.9
    assert config.chances["defect"] == AUGMENTATION_PRESETS["em"]["defect"]


def test_the_standard_preset_is_the_default():
    assert dict(AugmentationConfig().chances) == {
        **dict.fromkeys(KINDS, 0.0),
        **AUGMENTATION_PRESETS["standard"],
    }


def test_presets_name_known_changes_only():
    for preset in AUGMENTATION_PRESETS.values():
        assert set(preset) <= set(KINDS)
    strengths = [sum(AUGMENTATION_PRESETS[n].values()) for n in ("none", "light")]
    strengths += [sum(AUGMENTATION_PRESETS[n].values()) for n in ("standard", "strong")]
    assert strengths == sorted(strengths)


def test_a_configuration_with_a_preset_survives_being_written():
    config = build_config({"augmentation": {"preset": "strong", "noise": 0.2}})
    import yaml

    again = build_config(yaml.safe_load(dump_config(config)))
    assert again == config
    assert again.augmentation.chances == config.augmentation.chances


def test_an_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(DataError, match="strong"):
        build_config({"augmentation": {"preset": "storng"}})
