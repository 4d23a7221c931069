import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from napari_volseg.map_metrics import map_metrics
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import Targets, make_targets

PERFECT = {
    "mask_dice": 1,
    "boundary_f1": 1,
    "distance_rmse": 0,
    "distance_psnr": 100,
    "distance_ssim": pytest.approx(1),
}


def score(maps, values, valid=None, **options):
    valid = np.ones(values.shape, bool) if valid is None else valid
    return map_metrics([(maps, Targets(values, valid))], **options)


@pytest.fixture
def noisy(rng):
    """Return maps and targets that are alike."""
    values = np.zeros((3, 10, 24, 26), np.uint8)
    values[0, :, 4:20, 5:21] = 255
    values[1, :, 4:20, 5] = 255
    values[2] = rng.integers(0, 255, values.shape[1:])
    maps = (0.6 * values + 0.4 * rng.integers(0, 255, values.shape)).astype(np.uint8)
    return maps, values


@pytest.mark.parametrize("kind", ["depth", "signed", "skeleton"])
def test_targets_are_perfect_maps(kind):
    labels = make_sample("vesicles", (8, 40, 40)).labels_ZYX
    targets = make_targets(labels, (30, 8, 8), distance_kind=kind)

    assert map_metrics([(targets.values_CZYX, targets)]) == PERFECT


def test_known_errors():
    values = np.zeros((3, 1, 1, 12), np.uint8)
    values[:2, ..., :4] = 255
    valid = np.ones(values.shape, bool)
    valid[2, ..., 4:] = False
    maps = np.zeros_like(values)
    maps[0, ..., :2] = 128  # half of the mask, nothing beside it
    maps[1, ..., 2:6] = 255  # half of the boundary, as much beside it
    maps[2] = 51
    maps[2, ..., 6] = 255  # not valid

    strict = score(maps, values, valid, tolerance=0)
    lenient = score(maps, values, valid, tolerance=1)
    generous = score(maps, values, valid, tolerance=2)

    assert strict["mask_dice"] == pytest.approx(2 * 2 / 6)
    assert strict["boundary_f1"] == pytest.approx(2 / 4)
    assert lenient["boundary_f1"] == pytest.approx(3 / 4)
    assert generous["boundary_f1"] == 1
    assert strict["distance_rmse"] == pytest.approx(0.2)
    assert strict["distance_psnr"] == pytest.approx(-20 * np.log10(0.2))


def test_precision_and_recall_of_a_boundary_have_one_mean():
    """All 2 true voxels are found, by 2 of the 6 predicted ones."""
    values, maps = np.zeros((2, 3, 1, 1, 40), np.uint8)
    values[1, ..., [3, 20]] = 255
    maps[1, ..., [3, 20, 30, 33, 36, 39]] = 255
    assert score(maps, values)["boundary_f1"] == pytest.approx(2 / (1 + 3))


def test_boxes_that_share_half_have_a_dice_of_one_half():
    values, maps = np.zeros((2, 3, 6, 10, 30), np.uint8)
    values[0, ..., :10] = 255
    maps[0, ..., 5:15] = 255
    assert score(maps, values)["mask_dice"] == 0.5


def test_the_distance_agrees_with_scikit_image(noisy):
    maps, values = noisy
    scores = score(maps, values)
    psnr = peak_signal_noise_ratio(values[2], maps[2], data_range=255)
    assert scores["distance_psnr"] == pytest.approx(psnr)
    rmse = np.sqrt(np.mean((values[2].astype(float) - maps[2]) ** 2)) / 255
    assert scores["distance_rmse"] == pytest.approx(rmse)


def test_similarity_agrees_with_scikit_image(noisy):
    """Up to the faces, where scikit-image mirrors and this cuts the window."""
    maps, values = noisy
    _, expected = structural_similarity(
        values[2] / 255,
        maps[2] / 255,
        win_size=7,
        data_range=1.0,
        use_sample_covariance=False,
        full=True,
    )
    # One valid slice after the other, each scored as a plane.
    for z in range(10):
        valid = np.zeros(values.shape, bool)
        valid[2, z] = True
        _, plane = structural_similarity(
            values[2, z] / 255,
            maps[2, z] / 255,
            win_size=7,
            data_range=1.0,
            use_sample_covariance=False,
            full=True,
        )
        found = score(maps, values, valid)["distance_ssim"]
        assert found == pytest.approx(plane.mean(), abs=0.03)
    inner = (slice(3, -3),) * 3
    found = score(maps, values)["distance_ssim"]
    assert found == pytest.approx(expected[inner].mean(), abs=0.03)


def test_similarity_of_valid_voxels_is_that_of_a_crop(noisy):
    maps, values = noisy
    valid = np.zeros(values.shape, bool)
    part = (slice(None), slice(1, 9), slice(3, 15), slice(6, 20))
    valid[part] = True
    assert score(maps, values, valid)["distance_ssim"] == pytest.approx(
        score(maps[part], values[part])["distance_ssim"], abs=1e-4
    )


def test_what_is_not_valid_changes_nothing(noisy, rng):
    maps, values = noisy
    valid = rng.random(values.shape) > 0.3
    before = score(maps, values, valid)
    changed = np.where(valid, maps, 255 - maps)
    other = np.where(valid, values, 255 - values)
    assert score(changed, other, valid) == before


def test_scores_of_volumes_are_those_of_all_their_voxels(noisy):
    maps, values = noisy
    valid = np.ones(values.shape, bool)
    twice = map_metrics([(maps, Targets(values, valid))] * 2)
    assert twice == pytest.approx(score(maps, values))
    bad = 255 - values
    both = map_metrics(
        [(values, Targets(values, valid)), (bad, Targets(values, valid))]
    )
    assert both["distance_rmse"] == pytest.approx(
        score(bad, values)["distance_rmse"] / np.sqrt(2)
    )


def test_without_a_valid_voxel_nothing_is_wrong():
    values = np.zeros((3, 1, 1, 8), np.uint8)
    assert score(values, values, np.zeros(values.shape, bool)) == PERFECT


def test_a_boundary_on_one_side_only_is_all_wrong(noisy):
    maps, values = noisy
    assert score(0 * maps, values)["boundary_f1"] == 0
    assert score(values, 0 * values)["boundary_f1"] == 0
