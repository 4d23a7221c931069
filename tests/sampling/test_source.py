import numpy as np
import pytest
import torch

from napari_volseg.config import Config, load_config
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.sampling import PatchSource, batches, prepare_volume
from napari_volseg.volume import LabelledVolume, Volume

PATCH = (8, 16, 16)


@pytest.fixture
def volume(rng):
    """Ten cubes whose brightness is their label."""
    labels = np.zeros((20, 48, 48), np.int32)
    for index in range(1, 11):
        z, y, x = rng.integers(0, (16, 42, 42))
        labels[z : z + 4, y : y + 6, x : x + 6] = index
    return LabelledVolume(Volume((labels > 0).astype(np.uint8) * 200), labels)


def _config(*overrides):
    return load_config("quick", ["system.training.batch_size=3", *overrides])


def _prepare(volume, config=None, held_out=(), patch=PATCH):
    return prepare_volume(
        volume, held_out, (2, 2, 2), config or _config(), patch, "3d", "3d"
    )


def test_image_and_targets_stay_together_through_every_augmentation(volume):
    overrides = [
        f"augmentation.{name}=0"
        for name in ("intensity", "noise", "blur", "missing_section")
    ]
    config = _config(
        *overrides,
        "augmentation.affine=0.5",
        "augmentation.elastic=0.5",
        "augmentation.slipped_section=0.3",
        "data.percentiles=[0,1]",
    )
    source = PatchSource([_prepare(volume, config)], config, PATCH)
    for step in range(16):
        patch = source.draw(step, 0)
        assert patch.image_CZYX.shape == (1, *PATCH)
        assert patch.targets_CZYX.shape == (3, *PATCH)
        bright, inside = patch.image_CZYX[0] > 0.5, patch.targets_CZYX[0] > 127
        seen = patch.valid_CZYX[0]
        assert (bright == inside)[seen].mean() > 0.97


def test_patches_whose_targets_were_made_slice_by_slice_keep_their_slices():
    """The bend of isotropic voxels brings no voxel of one slice into another."""
    labels = np.zeros((24, 48, 48), np.int32)
    labels[::2] = 1
    striped = LabelledVolume(Volume((labels * 200).astype(np.uint8)), labels)
    config = _config("augmentation.preset=none", "augmentation.elastic=1")
    prepared = prepare_volume(striped, (), (2, 2, 2), config, PATCH, "2d", "2d")
    source = PatchSource([prepared], config, PATCH)
    for step in range(4):
        patch = source.draw(step, 0)
        slices = patch.targets_CZYX[0].reshape(PATCH[0], -1)
        assert (slices == slices[:, :1]).all()


def test_a_patch_depends_on_seed_step_and_place_only(volume):
    config = _config()
    first, second = (PatchSource([_prepare(volume)], config, PATCH) for _ in range(2))
    np.testing.assert_array_equal(
        first.draw(7, 1).image_CZYX, second.draw(7, 1).image_CZYX
    )
    drawn = [first.draw(s, p).image_CZYX for s in range(2) for p in range(2)]
    assert len({a.tobytes() for a in drawn}) == 4


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_change_no_batch(volume, workers):
    config = _config()
    source = PatchSource([_prepare(volume)], config, PATCH)
    stream = batches(source, 5, range(2), workers)
    for step in (5, 6, 7):
        got = next(stream)
        assert len(got) == 2
        for micro, batch in enumerate(got):
            want = source.batch(step, micro)
            torch.testing.assert_close(batch.image_BCZYX, want.image_BCZYX)
            torch.testing.assert_close(batch.targets_BCZYX, want.targets_BCZYX)
    stream.close()


def test_held_out_labels_and_their_guard_are_never_learnt(volume):
    hidden = Box((0, 10, 10), (20, 30, 30))
    prepared = _prepare(volume, held_out=[hidden])
    valid = prepared.valid_CZYX[:, :, : volume.labels_ZYX.shape[1]]
    assert not valid[:, :, 8:32, 8:32].any()
    assert valid[:, :, :7].all()
    config = _config("data.foreground=1")
    source = PatchSource([prepared], config, PATCH)
    for step in range(20):
        rng = np.random.default_rng(step)
        chosen, place = source._choose(step, rng)
        assert chosen is prepared
        assert source._centre(prepared, place, rng).shape == (3,)


def test_holding_out_everything_is_refused(volume):
    with pytest.raises(DataError, match="nothing is left to learn"):
        _prepare(volume, held_out=[Box.whole(volume.labels_ZYX.shape)])


def test_a_volume_smaller_than_the_patch_is_padded():
    labels = np.zeros((3, 10, 10), np.int32)
    labels[1:, 2:6, 2:6] = 1
    small = LabelledVolume(Volume(np.ones(labels.shape, np.uint16)), labels)
    config = _config()
    source = PatchSource([_prepare(small)], config, PATCH)
    assert source.batch(0, 0).image_BCZYX.shape == (3, 1, *PATCH)


def test_only_the_surroundings_of_the_annotation_are_read(rng):
    labels = np.zeros((8, 200, 200), np.int32)
    annotated = np.zeros(labels.shape, bool)
    annotated[:, 20:40, 20:40] = True
    labels[2:6, 24:30, 24:30] = 3
    big = LabelledVolume(
        Volume(rng.integers(0, 255, labels.shape, np.uint8)), labels, annotated
    )
    assert _prepare(big).image_CZYX.shape[2:] == (52, 52)


def test_objects_are_drawn_evenly_however_large(rng):
    labels = np.zeros((16, 64, 64), np.int32)
    labels[:, :50, :50] = 1
    labels[6:8, 60:62, 60:62] = 2
    volume = LabelledVolume(Volume(labels.astype(np.uint8)), labels)
    prepared = _prepare(volume)
    ids = labels[tuple(prepared.places.objects_N3.T)]
    assert np.count_nonzero(ids == 2) == 8
    assert np.count_nonzero(ids == 1) == 64


def test_annotation_without_objects_is_drawn_from_too():
    labels = np.zeros((8, 32, 32), np.int32)
    labels[0, 0, 0] = 1
    annotated = np.ones(labels.shape, bool)
    annotated[:4] = False
    volume = LabelledVolume(Volume(np.ones(labels.shape)), labels, annotated)
    source = PatchSource([_prepare(volume)], _config(), PATCH)
    assert source.draw(0, 0).valid_CZYX.any()


def test_a_voxel_that_is_no_number_is_refused(volume):
    image = volume.image.data.astype(np.float32)
    image[3, 3, 3] = np.nan
    broken = LabelledVolume(Volume(image, name="em"), volume.labels_ZYX)
    with pytest.raises(DataError, match="em has 1 voxels"):
        _prepare(broken)


def test_larger_annotation_is_drawn_from_more_often(volume):
    config = Config()
    small = _prepare(volume, held_out=[Box((0, 0, 0), (20, 48, 36))])
    source = PatchSource([small, _prepare(volume)], config, PATCH)
    assert source._weights[1] > 3 * source._weights[0]
