"""Terms on maps whose loss is known, or known to another library."""

import dataclasses

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss, FocalLoss, TverskyLoss
from skimage.metrics import structural_similarity as reference_similarity
from torch.nn import functional

from napari_volseg.losses.maps import ChannelMaps
from napari_volseg.losses.similarity import similarity_map, structural_similarity
from napari_volseg.losses.terms import (
    binary_cross_entropy,
    dice,
    focal,
    mean_squared_error,
    root_mean_squared_error,
    smooth_l1,
    tversky,
)

SURE = 100.0


def maps_of(probability, target, valid=None, surface=0.0):
    probability = torch.as_tensor(probability, dtype=torch.float32)
    target = torch.as_tensor(target, dtype=torch.float32)
    valid = torch.ones(target.shape, dtype=torch.bool) if valid is None else valid
    return ChannelMaps.of(
        torch.logit(probability).clamp(-SURE, SURE), target, valid, surface
    )


@pytest.fixture
def random_maps():
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand((2, 6, 12, 12), generator=generator)
    target = (torch.rand((2, 6, 12, 12), generator=generator) > 0.8).float()
    return maps_of(probability, target)


def boxes():
    """Return two boxes of 4000 voxels that share half of them."""
    one, other = torch.zeros((2, 1, 20, 20, 40))
    one[..., :10] = 1
    other[..., 5:15] = 1
    return one, other


def test_dice_of_boxes_that_share_half():
    maps = maps_of(*boxes())
    assert dice(maps).item() == pytest.approx(1 - (2 * 2000 + 1) / (8000 + 1))
    assert dice(maps_of(boxes()[0], boxes()[0])).item() == 0


def test_dice_agrees_with_monai(random_maps):
    p, target = random_maps.probability[:, None], random_maps.target[:, None]
    expected = DiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)(p, target)
    torch.testing.assert_close(dice(random_maps), expected)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.5, 0.5), (1.0, 0.0)])
def test_tversky_agrees_with_monai(alpha, beta, random_maps):
    p, target = random_maps.probability[:, None], random_maps.target[:, None]
    reference = TverskyLoss(
        alpha=alpha, beta=beta, batch=True, smooth_nr=0.5, smooth_dr=0.5
    )
    torch.testing.assert_close(tversky(alpha, beta)(random_maps), reference(p, target))


def test_tversky_with_equal_halves_is_dice(random_maps):
    torch.testing.assert_close(tversky(0.5, 0.5)(random_maps), dice(random_maps))


def test_tversky_blames_misses_more_than_false_alarms():
    small, large = torch.zeros((2, 1, 10, 10, 10))
    small[..., :2] = 1
    large[..., :4] = 1
    term = tversky(0.3, 0.7)
    assert term(maps_of(small, large)) > term(maps_of(large, small))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_agrees_with_monai(gamma, random_maps):
    logits, target = random_maps.logits[:, None], random_maps.target[:, None]
    expected = FocalLoss(gamma=gamma)(logits, target)
    torch.testing.assert_close(focal(gamma)(random_maps), expected)


def test_focal_without_focus_is_cross_entropy(random_maps):
    expected = functional.binary_cross_entropy_with_logits(
        random_maps.logits, random_maps.target
    )
    torch.testing.assert_close(focal(0.0)(random_maps), expected)


@pytest.mark.parametrize(
    ("n_positive", "weight"), [(500, 1), (100, 3), (5, 10), (900, 1)]
)
def test_the_positive_weight_follows_the_share_of_positives(n_positive, weight):
    target = torch.zeros(1000)
    target[:n_positive] = 1
    target = target.reshape(1, 10, 10, 10)
    maps = maps_of(torch.full_like(target, 0.3), target)
    n_negative = 1000 - n_positive
    total = -weight * n_positive * np.log(0.3) - n_negative * np.log(0.7)
    expected = total / (weight * n_positive + n_negative)
    assert binary_cross_entropy(maps).item() == pytest.approx(expected, rel=1e-5)


def test_errors_by_hand_balance_inside_and_outside():
    """Two voxels inside are off by 0.5, six outside by 0.1: both sides count half."""
    target = torch.tensor([0.8, 0.8, 0, 0, 0, 0, 0, 0]).reshape(1, 1, 1, 8)
    probability = torch.tensor([0.3, 0.3, *[0.1] * 6]).reshape(1, 1, 1, 8)
    maps = maps_of(probability, target)
    assert mean_squared_error(maps).item() == pytest.approx((0.25 + 0.01) / 2)
    rmse = root_mean_squared_error(maps).item()
    assert rmse == pytest.approx(((0.25 + 0.01) / 2) ** 0.5)
    smooth = ((0.5 - 0.05) + (0.1 - 0.05)) / 2
    assert smooth_l1(maps).item() == pytest.approx(smooth)


def test_the_surface_of_a_signed_distance_is_where_it_says():
    target = torch.tensor([0.9, 0.9, *[0.3] * 6]).reshape(1, 1, 1, 8)
    probability = torch.tensor([0.4, 0.4, *[0.2] * 6]).reshape(1, 1, 1, 8)
    balanced = mean_squared_error(maps_of(probability, target, surface=0.5)).item()
    assert balanced == pytest.approx((0.25 + 0.01) / 2)
    # With the surface at 0 all is inside, and counts alike.
    plain = mean_squared_error(maps_of(probability, target)).item()
    assert plain == pytest.approx((2 * 0.25 + 6 * 0.01) / 8)


def test_unweighted_root_mean_square_agrees_with_torch():
    """All inside: no weights are left."""
    generator = torch.Generator().manual_seed(2)
    p = torch.rand((2, 4, 8, 8), generator=generator)
    target = torch.rand((2, 4, 8, 8), generator=generator) + 0.001
    expected = functional.mse_loss(p, target).sqrt()
    torch.testing.assert_close(root_mean_squared_error(maps_of(p, target)), expected)


def test_identical_maps_are_similar(random_maps):
    maps = maps_of(random_maps.target, random_maps.target)
    assert structural_similarity(7)(maps).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("window", [3, 7])
def test_similarity_agrees_with_scikit_image(window, rng):
    x = rng.random((9, 20, 20), np.float32)
    y = 0.5 * x + 0.5 * rng.random((9, 20, 20), np.float32)
    _, expected = reference_similarity(
        x, y, win_size=window, data_range=1.0, use_sample_covariance=False, full=True
    )
    found = similarity_map(maps_of(x[None], y[None]), window)[0].numpy()
    inner = (slice(window // 2, -(window // 2)),) * 3
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-4)
    # At the edge the window is what lies inside of it, not a mirror image.
    corner = (slice(0, window // 2 + 1),) * 3
    a, b = x[corner].astype(float), y[corner].astype(float)
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    by_hand = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
    by_hand /= (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)
    assert found[0, 0, 0] == pytest.approx(by_hand, abs=1e-4)


def test_similarity_of_known_voxels_is_that_of_a_crop(rng):
    x, y = rng.random((2, 1, 6, 14, 14), np.float32)
    known = torch.zeros((1, 6, 14, 14), dtype=torch.bool)
    known[:, :, 3:9, 2:11] = True
    part = maps_of(x, y, known)
    crop = maps_of(x[:, :, 3:9, 2:11], y[:, :, 3:9, 2:11])
    for window in (3, 5):
        term = structural_similarity(window)
        torch.testing.assert_close(term(part), term(crop), rtol=1e-4, atol=1e-5)


def test_similarity_of_a_slice_is_that_of_the_plane(rng):
    x, y = rng.random((2, 16, 16), np.float32)
    _, expected = reference_similarity(
        x, y, win_size=7, data_range=1.0, use_sample_covariance=False, full=True
    )
    found = similarity_map(maps_of(x[None, None], y[None, None]), 7)[0, 0].numpy()
    np.testing.assert_allclose(found[3:-3, 3:-3], expected[3:-3, 3:-3], atol=1e-4)


def test_averaging_keeps_means_and_ignores_the_unknown(rng):
    p, target = rng.random((2, 1, 8, 8, 9), np.float32)
    known = torch.from_numpy(rng.random((1, 8, 8, 9)) > 0.4)
    maps = maps_of(p, target, known).averaged()
    assert maps.known.shape == (1, 4, 4, 5)
    block = known[0, 2:4, 4:6, 6:8]
    assert maps.known[0, 1, 2, 3] == pytest.approx(float(block.float().mean()))
    mean = p[0, 2:4, 4:6, 6:8][block.numpy()].mean()
    assert maps.probability[0, 1, 2, 3] == pytest.approx(mean, abs=1e-5)
    assert torch.sigmoid(maps.logits[0, 1, 2, 3]) == pytest.approx(mean, abs=1e-5)


def test_thin_axes_are_not_averaged():
    maps = maps_of(torch.rand((1, 5, 16, 7)), torch.rand((1, 5, 16, 7)))
    assert maps.averaged().known.shape == (1, 5, 8, 7)


@pytest.mark.parametrize("shape", [(4, 6, 5), (1, 9, 8), (2, 3, 10)])
def test_the_gradient_of_the_similarity_is_its_slope(shape):
    generator = torch.Generator().manual_seed(3)
    target = torch.rand((1, *shape), generator=generator, dtype=torch.double)
    known = torch.rand((1, *shape), generator=generator) > 0.3
    logits = torch.randn(target.shape, generator=generator, dtype=torch.double)
    term = structural_similarity(5)

    def loss(logits):
        maps = ChannelMaps.of(logits, target, known)
        return term(dataclasses.replace(maps, known=known.double()))

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),))
