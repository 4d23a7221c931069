import pytest
import torch

from napari_volseg.losses import map_loss

WEIGHTS = (1.0, 1.0, 3.0)


@pytest.fixture
def example():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 6, 6), generator=generator)
    targets = torch.rand((2, 3, 4, 6, 6), generator=generator)
    targets[:, :2] = (targets[:, :2] > 0.7).float()
    valid = torch.rand((2, 3, 4, 6, 6), generator=generator) > 0.3
    return logits, targets, valid


def test_unknown_voxels_count_nothing(example):
    logits, targets, valid = example
    before, parts = map_loss([logits], targets, valid, WEIGHTS)
    changed = torch.where(valid, logits, 50 * torch.randn_like(logits))
    flipped = torch.where(valid, targets, 1 - targets)
    after, other = map_loss([changed], flipped, valid, WEIGHTS)
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(parts, other)


def test_unknown_voxels_get_no_gradient(example):
    logits, targets, valid = example
    logits.requires_grad_()
    map_loss([logits], targets, valid, WEIGHTS)[0].backward()
    assert not logits.grad[~valid].any()
    assert logits.grad[valid].any()


def test_nothing_known_is_no_error(example):
    logits, targets, valid = example
    total, _ = map_loss([logits], targets, torch.zeros_like(valid), WEIGHTS)
    assert torch.isfinite(total)


def test_perfect_logits_lose_next_to_nothing(example):
    _, targets, valid = example
    perfect = torch.logit(targets.clamp(1e-4, 1 - 1e-4))
    total, _ = map_loss([perfect], targets, valid, WEIGHTS)
    worst, _ = map_loss([-perfect], targets, valid, WEIGHTS)
    assert total < 0.05 < worst


def test_the_total_is_the_weighted_sum_of_the_parts(example):
    logits, targets, valid = example
    total, parts = map_loss([logits], targets, valid, WEIGHTS)
    torch.testing.assert_close(total, (parts * torch.tensor(WEIGHTS)).sum())


def test_the_finest_output_counts_most(example):
    _, targets, valid = example
    perfect = torch.logit(targets.clamp(1e-4, 1 - 1e-4))
    coarse_bad, _ = map_loss([perfect, -perfect], targets, valid, WEIGHTS)
    fine_bad, _ = map_loss([-perfect, perfect], targets, valid, WEIGHTS)
    assert coarse_bad < fine_bad


def test_coarser_outputs_may_be_smaller(example):
    logits, targets, valid = example
    total, _ = map_loss([logits, logits[..., ::2, ::2]], targets, valid, WEIGHTS)
    assert torch.isfinite(total)


def test_a_batch_without_objects_is_finite(example):
    logits, targets, valid = example
    total, _ = map_loss([logits], torch.zeros_like(targets), valid, WEIGHTS)
    assert torch.isfinite(total)
