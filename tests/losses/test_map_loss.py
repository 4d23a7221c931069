import pytest
import torch
from torch.nn import functional

from napari_volseg.config import LOSS_TERMS, apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.losses import build_loss

WEIGHTS = (1.0, 1.0, 3.0)
KINDS = [
    *(pytest.param({"terms": {term: 1.0}}, id=term) for term in LOSS_TERMS),
    pytest.param({}, id="default"),
    pytest.param({"terms": {"rmse": 0.7, "ssim": 0.3}}, id="rmse+ssim"),
    pytest.param({"terms": {"mse": 1, "bce": 1, "ssim": 1}, "scales": 3}, id="scales"),
    pytest.param({"loss_balance": "uncertainty"}, id="uncertainty"),
]


def gradient(loss, outputs, targets, valid):
    outputs = [o.detach().clone().requires_grad_() for o in outputs]
    losses = loss(outputs, targets, valid)
    losses.objective.backward()
    return losses, [o.grad for o in outputs]


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_voxels_change_neither_loss_nor_gradient(kind, example, make_loss):
    logits, targets, valid = example
    loss = make_loss(**kind)
    before, slope = gradient(loss, [logits], targets, valid)

    other = torch.where(valid, logits, 50 * torch.randn_like(logits))
    flipped = torch.where(valid, targets, 1 - targets)
    after, same_slope = gradient(loss, [other], flipped, valid)

    assert torch.equal(before.objective, after.objective)
    assert torch.equal(before.total, after.total)
    assert torch.equal(before.parts, after.parts)
    assert torch.equal(slope[0], same_slope[0])
    assert not slope[0][~valid].any()
    assert slope[0][valid].any()
    assert before.total > 0


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_voxels_need_not_be_numbers(kind, example, make_loss):
    logits, targets, valid = example
    loss = make_loss(**kind)
    before, slope = gradient(loss, [logits], targets, valid)

    after, same_slope = gradient(
        loss,
        [torch.where(valid, logits, torch.nan)],
        torch.where(valid, targets, torch.inf),
        valid,
    )

    assert torch.equal(before.objective, after.objective)
    assert torch.equal(slope[0], same_slope[0])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_known_is_no_loss(kind, example, make_loss):
    logits, targets, valid = example
    loss = make_loss(**kind)

    losses, slope = gradient(loss, [logits], targets, torch.zeros_like(valid))

    assert losses.objective == 0
    assert losses.total == 0
    assert not losses.parts.any()
    assert not slope[0].any()  # NaN would be something
    assert all(not p.grad.any() for p in loss.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_logits_are_weighed_in_full(kind, dtype, example, make_loss):
    logits, targets, valid = example
    loss = make_loss(**kind)
    logits = (8 * logits).to(dtype)

    with torch.autocast("cpu", torch.bfloat16):
        low, slope = gradient(loss, [logits], targets, valid)
    full, _ = gradient(loss, [logits.float()], targets, valid)

    assert low.objective.dtype == torch.float32
    torch.testing.assert_close(low.total, full.total)
    assert torch.isfinite(slope[0]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [60, -60])
def test_certain_logits_have_finite_gradients(kind, size, example, make_loss):
    logits, targets, valid = example

    losses, slope = gradient(
        make_loss(**kind), [torch.full_like(logits, size)], targets, valid
    )

    assert torch.isfinite(losses.objective)
    assert torch.isfinite(slope[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_maps_lose_least(kind, example, make_loss):
    _, targets, valid = example
    loss = make_loss(**kind)
    targets = targets.round().clamp(1e-4, 1 - 1e-4)
    right = torch.logit(targets)

    best = loss([right], targets, valid).total
    wrong = loss([-right], targets, valid).total
    vague = loss([torch.zeros_like(right)], targets, valid).total

    assert best < vague
    assert best < 0.5 * wrong


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_objects_is_finite(kind, example, make_loss):
    logits, targets, valid = example

    losses, slope = gradient(
        make_loss(**kind), [logits], torch.zeros_like(targets), valid
    )

    assert torch.isfinite(losses.total)
    assert torch.isfinite(slope[0]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 5, 7), (1, 1, 1)])
def test_thin_and_small_patches_are_possible(kind, shape, make_loss):
    logits = torch.randn((1, 3, *shape))
    targets = torch.rand((1, 3, *shape))
    valid = torch.ones((1, 3, *shape), dtype=torch.bool)

    losses, slope = gradient(make_loss(**kind), [logits], targets, valid)

    assert torch.isfinite(losses.total)
    assert torch.isfinite(slope[0]).all()


def reference_loss(outputs, targets, valid, weights):
    """Dice and weighted cross-entropy, balanced smooth L1, halved level by level."""

    def segmentation(logits, target, known):
        positive = (target * known).sum()
        negative = ((1 - target) * known).sum()
        balance = (negative / positive.clamp(min=1)).sqrt().clamp(1, 10)
        entropy = functional.binary_cross_entropy_with_logits(
            logits, target, pos_weight=balance, reduction="none"
        )
        weight = known * (1 + (balance - 1) * target)
        entropy = (entropy * known).sum() / weight.sum().clamp(min=1)
        p = torch.sigmoid(logits) * known
        dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + positive + 1)
        return entropy + dice

    def distance(logits, target, known):
        inside = (target > 0).float() * known
        n, n_inside = known.sum(), inside.sum()
        weight_in = (n / (2 * n_inside).clamp(min=1)).clamp(max=10)
        weight_out = (n / (2 * (n - n_inside)).clamp(min=1)).clamp(max=10)
        weight = inside * weight_in + (known - inside) * weight_out
        error = functional.smooth_l1_loss(
            torch.sigmoid(logits), target, beta=0.1, reduction="none"
        )
        return (error * weight).sum() / weight.sum().clamp(min=1)

    total = torch.zeros(())
    known = valid.float()
    share = 1 / sum(0.5**level for level in range(len(outputs)))
    for level, logits in enumerate(outputs):
        if level:
            logits = functional.interpolate(logits, targets.shape[2:], mode="trilinear")
        losses = torch.stack(
            [
                segmentation(logits[:, 0], targets[:, 0], known[:, 0]),
                segmentation(logits[:, 1], targets[:, 1], known[:, 1]),
                distance(logits[:, 2], targets[:, 2], known[:, 2]),
            ]
        )
        total = total + share * 0.5**level * (losses * torch.tensor(weights)).sum()
    return total


@pytest.mark.parametrize("n_levels", [1, 3])
def test_the_default_is_bit_for_bit_what_the_first_version_had(
    n_levels, example, make_loss
):
    logits, targets, valid = example
    outputs = [logits, logits[..., ::2, ::2], logits[..., ::4, ::4]][:n_levels]
    losses, slopes = gradient(make_loss(loss_weights=WEIGHTS), outputs, targets, valid)

    leaves = [o.clone().requires_grad_() for o in outputs]
    expected = reference_loss(leaves, targets, valid, WEIGHTS)
    expected.backward()

    assert torch.equal(losses.objective, expected)
    for slope, leaf in zip(slopes, leaves, strict=True):
        assert torch.equal(slope, leaf.grad)


def test_the_total_is_the_weighted_sum_of_the_parts(example, make_loss):
    losses = make_loss(loss_weights=(0.5, 2.0, 3.0))(example[:1], *example[1:])
    torch.testing.assert_close(
        losses.total, (losses.parts * torch.tensor([0.5, 2.0, 3.0])).sum()
    )


def test_each_channel_has_terms_of_its_own(example, make_loss):
    logits, targets, valid = example
    loss = make_loss(mask={"dice": 1}, boundary={"focal": 2}, distance={"rmse": 1})
    parts = loss([logits], targets, valid).parts
    for channel, terms in enumerate([{"dice": 1}, {"focal": 2}, {"rmse": 1}]):
        alone = make_loss(terms)([logits], targets, valid).parts
        torch.testing.assert_close(parts[channel], alone[channel])


def test_weights_of_terms_add_up(example, make_loss):
    logits, targets, valid = example
    rmse, ssim, both = (
        make_loss(terms)([logits], targets, valid).parts
        for terms in ({"rmse": 1}, {"ssim": 1}, {"rmse": 0.7, "ssim": 0.3})
    )
    torch.testing.assert_close(both, 0.7 * rmse + 0.3 * ssim)


def test_scales_are_averaged(example, make_loss):
    """On maps that are constant in blocks, every scale has the same error."""
    logits, targets, _ = example
    logits, targets = (
        m[..., :4, :16, :16].repeat_interleave(2, 2)[..., ::2, ::2]
        for m in (logits, targets)
    )
    logits, targets = (
        m.repeat_interleave(2, 3).repeat_interleave(2, 4) for m in (logits, targets)
    )
    valid = torch.ones_like(targets, dtype=torch.bool)
    one = make_loss({"mse": 1})([logits], targets, valid)
    two = make_loss({"mse": 1}, scales=2)([logits], targets, valid)
    torch.testing.assert_close(one.parts, two.parts, rtol=1e-4, atol=1e-6)


def test_a_coarse_scale_forgives_a_shift_by_a_voxel(make_loss):
    target = torch.zeros((1, 3, 1, 32, 32))
    target[..., ::4] = 1
    target[..., 1::4] = 1
    shifted = torch.logit(target.roll(1, -1).clamp(1e-3, 1 - 1e-3))
    valid = torch.ones_like(target, dtype=torch.bool)
    fine = make_loss({"mse": 1})([shifted], target, valid).total
    both = make_loss({"mse": 1}, scales=3)([shifted], target, valid).total
    assert both < 0.6 * fine


def test_the_finest_output_counts_most(example, make_loss):
    _, targets, valid = example
    loss = make_loss()
    perfect = torch.logit(targets.clamp(1e-4, 1 - 1e-4))
    coarse_bad = loss([perfect, -perfect], targets, valid).total
    fine_bad = loss([-perfect, perfect], targets, valid).total
    assert coarse_bad < fine_bad


@pytest.mark.parametrize("balance", ["fixed", "uncertainty"])
def test_parts_are_those_of_the_finest_output(balance, example, make_loss):
    logits, targets, valid = example
    loss = make_loss(loss_balance=balance)
    alone = loss([logits], targets, valid)
    deep = loss([logits, -50 + 0 * logits[..., ::2, ::2]], targets, valid)
    assert torch.equal(alone.parts, deep.parts)
    assert deep.total > alone.total


def test_uncertainty_starts_at_half_of_the_weighted_sum(example, make_loss):
    logits, targets, valid = example
    losses = make_loss(loss_balance="uncertainty")([logits], targets, valid)
    fixed = make_loss()([logits], targets, valid)
    torch.testing.assert_close(losses.objective, fixed.total / 2)
    assert torch.equal(losses.total, fixed.total)


def test_uncertainty_learns_the_logarithm_of_each_loss(example, make_loss):
    """The objective is least where exp(s) is the channel's weighted loss."""
    logits, targets, valid = example
    loss = make_loss(loss_balance="uncertainty", loss_weights=WEIGHTS)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        losses = loss([logits], targets, valid)
        losses.objective.backward()
        optimizer.step()
    expected = torch.log(losses.parts * torch.tensor(WEIGHTS))
    torch.testing.assert_close(loss.log_variance.data, expected, rtol=0.01, atol=0.01)


def test_the_total_stays_when_the_objective_turns_negative(example, make_loss):
    logits, targets, valid = example
    loss = make_loss(loss_balance="uncertainty")
    before = loss([logits], targets, valid)
    loss.load_state_dict({"log_variance": torch.full((3,), -4.0)})
    perfect = torch.logit(targets.clamp(1e-4, 1 - 1e-4))
    after = loss([perfect], targets, valid)
    assert after.objective < 0 < after.total < before.total


def test_channels_of_no_weight_or_nothing_known_do_not_drift(example, make_loss):
    logits, targets, valid = example
    valid = valid.clone()
    valid[:, 0] = False
    loss = make_loss(loss_balance="uncertainty", loss_weights=(1.0, 0.0, 1.0))
    gradient(loss, [logits], targets, valid)
    assert (loss.log_variance.grad != 0).tolist() == [False, False, True]


def test_a_fixed_loss_has_nothing_to_learn_or_to_keep(make_loss):
    loss = make_loss({"perceptual": 1.0})
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_perceptual_terms_are_left_out_without_features(example, make_loss):
    config = build_config(
        {"model": {"loss": {"mask": {"perceptual": 1}, "perceptual_model": "/m"}}}
    )
    assert build_loss(config.model)([example[0]], *example[1:]).parts[0] == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.loss.mask.dize=1", "did you mean 'dice'"),
        ("model.loss.boundary.boundary_dice=1", "there is no loss term"),
        ("model.loss.distance={smoothl1: 1}", "did you mean 'smooth_l1'"),
        ("model.loss.distance={}", "above 0"),
        ("model.loss.mask={bce: 0}", "above 0"),
        ("model.loss.mask={bce: -1}", "greater than or equal to 0"),
        ("model.loss.mask={perceptual: 1}", "needs model.loss.perceptual_model"),
        ("model.loss.ssim_window=6", "use 5 or 7"),
        ("model.loss.bounday={bce: 1}", "did you mean 'model.loss.boundary'"),
        ("model.loss_balance=gradnorm", "'fixed' or 'uncertainty'"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, message):
    with pytest.raises(DataError, match=message):
        build_config(apply_overrides({}, [setting]))


def test_naming_a_term_replaces_the_default_ones():
    config = build_config(apply_overrides({}, ["model.loss.distance.rmse=0.7"]))
    assert config.model.loss.distance == {"rmse": 0.7}
    assert config.model.loss.mask == {"bce": 1.0, "dice": 1.0}
