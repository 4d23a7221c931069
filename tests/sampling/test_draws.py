"""Which patches are drawn: randomness, shares, and what is never learnt from."""

import numpy as np
import pytest

from napari_volseg.config import load_config
from napari_volseg.geometry import Box
from napari_volseg.sampling import PatchSource, batches, prepare_volume
from napari_volseg.sampling import source as module
from napari_volseg.sampling.source import choose_place
from napari_volseg.targets import make_targets
from napari_volseg.volume import LabelledVolume, Volume

PATCH = (8, 16, 16)


@pytest.fixture
def volume(rng):
    """A large object, forty tiny ones, and two of middle size that touch."""
    labels = np.zeros((16, 96, 96), np.int32)
    labels[:, :44, :44] = 1
    labels[4:10, 60:70, 50:60] = 2
    labels[4:10, 60:70, 60:70] = 3
    for index in range(40):
        y, x = 50 + index // 10 * 10, 4 + index % 10 * 4
        labels[2:4, y : y + 2, x : x + 2] = 10 + index
    image = rng.integers(0, 255, labels.shape, np.uint8)
    return LabelledVolume(Volume(image), labels)


def _config(*overrides):
    return load_config(
        "quick",
        ["augmentation.preset=none", "system.training.batch_size=4", *overrides],
    )


def _prepare(volume, config, held_out=()):
    return prepare_volume(volume, held_out, (1, 2, 2), config, PATCH, "3d", "3d")


def _source(volume, *overrides, held_out=()):
    config = _config(*overrides)
    return PatchSource([_prepare(volume, config, held_out)], config, PATCH)


def _places(volume, n, *overrides):
    config = _config(*overrides)
    places = _prepare(volume, config).places
    rng = np.random.default_rng(0)
    return np.array([choose_place(places, config.data, rng) for _ in range(n)])


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_no_two_patches_of_an_epoch_share_their_draws(volume, workers):
    source = _source(volume, "augmentation.preset=strong")
    stream = batches(source, 0, range(2), workers)
    seen = set()
    for _ in range(8):
        for batch in next(stream):
            seen |= {image.numpy().tobytes() for image in batch.image_BCZYX}
    stream.close()
    assert len(seen) == 8 * 2 * 4


def test_noise_differs_between_places_and_steps():
    """Draws differ even where patches are cut at one and the same place."""
    flat = LabelledVolume(Volume(np.full((8, 16, 16), 9.0)), np.ones((8, 16, 16), int))
    source = _source(flat, "augmentation.preset=none", "augmentation.noise=1")
    patches = [source.draw(s, p).image_CZYX for s in range(4) for p in range(4)]
    for i, one in enumerate(patches):
        for other in patches[:i]:
            correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
            assert abs(correlation) < 0.15


def test_another_seed_draws_other_patches(volume):
    one, other = _source(volume), _source(volume, "system.seed=1")
    assert not np.array_equal(one.draw(0, 0).image_CZYX, other.draw(0, 0).image_CZYX)


def test_what_fails_in_a_thread_is_raised_at_its_step(volume, monkeypatch):
    draw = PatchSource.draw

    def failing(source, step, place):
        if step == 3:
            raise RuntimeError("broken patch")
        return draw(source, step, place)

    monkeypatch.setattr(PatchSource, "draw", failing)
    stream = batches(_source(volume), 0, range(1), 2)
    for _ in range(3):
        next(stream)
    with pytest.raises(RuntimeError, match="broken patch"):
        next(stream)


def test_foreground_is_aimed_at_without_rejecting_patches(volume):
    labels = volume.labels_ZYX
    for share in (0.0, 0.5, 1.0):
        places = _places(volume, 600, f"data.foreground={share}")
        inside = (labels[tuple(places.T)] > 0).mean()
        background = (labels > 0).mean()
        assert inside == pytest.approx(share + (1 - share) * background, abs=0.07)


def test_rare_sizes_are_drawn_as_often_as_common_ones(volume):
    ids = volume.labels_ZYX
    plain, rare = (
        ids[tuple(_places(volume, 900, "data.foreground=1", *more).T)]
        for more in ([], ["data.rare_instances=1"])
    )
    tiny = [(found >= 10).mean() for found in (plain, rare)]
    large = [(found == 1).mean() for found in (plain, rare)]
    # Three classes: 40 tiny objects of 8 voxels, 2 of 600, 1 of 30,000.
    assert tiny[1] == pytest.approx(1 / 3, abs=0.06)
    assert large[1] == pytest.approx(1 / 3, abs=0.06)
    assert large[0] < 0.2


def test_small_objects_are_drawn_more_often_when_they_are_the_rare_ones():
    labels = np.zeros((8, 80, 80), np.int32)
    for index in range(30):
        y, x = index // 6 * 14, index % 6 * 13
        labels[:, y : y + 10, x : x + 10] = index + 1
    labels[2, 78, 78] = 99
    volume = LabelledVolume(Volume(labels.astype(np.uint8)), labels)
    plain, rare = (
        (labels[tuple(_places(volume, 900, "data.foreground=1", *more).T)] == 99).mean()
        for more in ([], ["data.rare_instances=0.5"])
    )
    assert plain < 0.01
    assert rare == pytest.approx(0.25, abs=0.05)


def test_boundary_aware_patches_are_centred_where_objects_touch(volume):
    places = _places(volume, 400, "data.boundary_aware=0.5", "data.foreground=0")
    z, y, x = places.T
    touching = np.isin(x, (59, 60)) & (y >= 60) & (y < 70) & (z >= 4) & (z < 10)
    assert touching.mean() == pytest.approx(0.5, abs=0.08)


def test_volumes_are_drawn_by_what_is_annotated_or_labelled(volume):
    labels = np.zeros((16, 32, 96), np.int32)
    labels[:] = 5
    full = LabelledVolume(Volume(np.ones(labels.shape)), labels)
    weights = {}
    for kind in ("annotated", "foreground", "equal"):
        config = _config(f"data.volume_weights={kind}")
        prepared = [_prepare(volume, config), _prepare(full, config)]
        weights[kind] = PatchSource(prepared, config, PATCH)._weights
    assert weights["annotated"] == pytest.approx([0.75, 0.25])
    share = (volume.labels_ZYX > 0).sum()
    assert weights["foreground"][0] == pytest.approx(share / (share + labels.size))
    assert weights["equal"] == pytest.approx([0.5, 0.5])


def test_volumes_are_drawn_as_often_as_they_weigh(volume):
    small = LabelledVolume(
        Volume(np.full((16, 32, 96), 1000.0)), volume.labels_ZYX[:, :32]
    )
    config = _config("data.percentiles=[0,1]")
    prepared = [_prepare(volume, config), _prepare(small, config)]
    source = PatchSource(prepared, config, PATCH)
    # A constant image is 0 everywhere.
    drawn = [source.draw(step, 0).image_CZYX.any() for step in range(200)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("preset", ["none", "strong", "em"])
def test_held_out_voxels_are_in_no_patch_as_known(volume, preset):
    """Held-out voxels are marked in the image, so that they show wherever they go."""
    hidden = Box((0, 40, 40), (16, 80, 80))
    image = np.zeros(volume.labels_ZYX.shape, np.float32)
    image[hidden.slices] = 1
    marked = LabelledVolume(Volume(image), volume.labels_ZYX)
    off = ["noise", "intensity", "brightness_gradient", "section_contrast", "cut_noise"]
    off += ["blur", "motion_blur", "missing_section", "defect"]
    source = _source(
        marked,
        f"augmentation.preset={preset}",
        *(f"augmentation.{name}=0" for name in off),
        "data.percentiles=[0,1]",
        "data.pad_size=[2,8,8]",
        held_out=[hidden],
    )
    met = 0
    for step in range(60):
        patch = source.draw(step, 0)
        met += int((patch.image_CZYX > 0.9).any())
        assert not patch.valid_CZYX[:, patch.image_CZYX[0] > 0.9].any()
    assert met > 5


def test_a_patch_has_the_targets_of_the_whole_volume(volume):
    """Targets do not depend on where the patch lies, nor intensities."""
    config = _config("data.percentiles=[0,1]")
    index = np.arange(volume.labels_ZYX.size, dtype=np.float64)
    coordinates = LabelledVolume(
        Volume(index.reshape(volume.labels_ZYX.shape)), volume.labels_ZYX
    )
    whole = make_targets(volume.labels_ZYX, (1.0, 1.0, 1.0)).values_CZYX
    source = PatchSource([_prepare(coordinates, config)], config, PATCH)
    for step in range(30):
        patch = source.draw(step, 0)
        flat = np.rint(patch.image_CZYX[0] * (index.size - 1)).astype(int)
        corner = np.unravel_index(flat[0, 0, 0], volume.labels_ZYX.shape)
        box = tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))
        np.testing.assert_array_equal(patch.targets_CZYX, whole[(slice(None), *box)])


@pytest.mark.parametrize("pad", [(0, 0, 0), (3, 8, 8)])
def test_margins_mirror_image_labels_and_mask_alike(volume, pad):
    annotated = np.ones(volume.labels_ZYX.shape, bool)
    annotated[:, :5] = False
    image = np.where(annotated, volume.labels_ZYX > 0, 0).astype(np.uint8)
    marked = LabelledVolume(Volume(image), volume.labels_ZYX, annotated)
    config = _config(f"data.pad_size={list(pad)}", "data.percentiles=[0,1]")
    prepared = _prepare(marked, config)
    shape = prepared.shape_ZYX
    assert shape == tuple(
        n + 2 * p for n, p in zip(volume.labels_ZYX.shape, pad, strict=True)
    )
    found = prepared.read((0, 0, 0), shape)
    margins = ((0, 0), *((p, p) for p in pad))
    kept = (prepared.image_CZYX, prepared.targets_CZYX, prepared.valid_CZYX)
    for array, part in zip(kept, found, strict=True):
        np.testing.assert_array_equal(part, np.pad(array, margins, mode="reflect"))


@pytest.mark.parametrize("pad", ["[0,0,0]", "[1,3,5]"])
def test_margins_many_times_a_thin_volume_are_mirrored_on_and_on(pad):
    labels = np.zeros((2, 3, 40), np.int32)
    labels[:, 1:, 10:20] = 1
    volume = LabelledVolume(Volume(np.arange(240).reshape(labels.shape)), labels)
    config = _config(f"data.pad_size={pad}")
    prepared = _prepare(volume, config)
    found, _, _ = prepared.read((0, 0, 0), prepared.shape_ZYX)
    wanted = np.pad(prepared.image_CZYX, ((0, 0), *prepared.margins), mode="reflect")
    np.testing.assert_array_equal(found, wanted)


def test_a_patch_with_nothing_known_is_drawn_again(volume, monkeypatch):
    source = _source(volume)
    draws = []
    draw = PatchSource._draw

    def blind(source, step, rng):
        patch = draw(source, step, rng)
        draws.append(patch)
        if len(draws) < 3:
            patch.valid_CZYX[:] = False
        return patch

    monkeypatch.setattr(PatchSource, "_draw", blind)
    # The arrays of the volume itself are not to be changed by the test.
    prepared = source.volumes[0]
    prepared.valid_CZYX.setflags(write=True)
    keep = prepared.valid_CZYX.copy()
    monkeypatch.setattr(
        module.PreparedVolume,
        "read",
        lambda self, a, b: tuple(
            np.array(x[(slice(None), *map(slice, a, b))])
            for x in (self.image_CZYX, self.targets_CZYX, keep)
        ),
    )
    assert source.draw(0, 0).valid_CZYX.any()
    assert len(draws) == 3
