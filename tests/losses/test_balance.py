"""Losses in a training: what is learnt, reported and kept."""

import pytest
import torch

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.events import Validated
from napari_volseg.learner import Learner
from napari_volseg.planning import plan_training
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import Batch
from napari_volseg.training import train

UNCERTAIN = "model.loss_balance=uncertainty"


@pytest.fixture
def make_plan(tiny_config, cells):
    def make(*overrides):
        tree = apply_overrides(tiny_config.model_dump(mode="json"), overrides)
        return plan_training(build_config(tree), [TrainingPair(cells, None)])

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((2, 1, 8, 16, 16), generator=generator)
    targets = (image > 0.6).float().expand(-1, 3, -1, -1, -1)
    return Batch(image, targets, torch.ones_like(targets, dtype=torch.bool))


def test_uncertainties_are_learnt_with_the_network(make_plan, batch):
    learner = Learner(make_plan(UNCERTAIN))
    for _ in range(3):
        learner.learn([batch])
    assert (learner.loss.log_variance != 0).all()
    decayed = learner.updater.optimizer.param_groups[0]["params"]
    assert all(p is not learner.loss.log_variance for p in decayed)


def test_a_resumed_learner_has_the_uncertainties_and_goes_on_alike(make_plan, batch):
    plan = make_plan(UNCERTAIN)
    learner = Learner(plan)
    learner.learn([batch])
    state = learner.state()
    state = {k: _copy(v) for k, v in state.items()}
    expected = learner.learn([batch])
    uncertainty = learner.loss.log_variance.detach().clone()

    resumed = Learner(plan)
    resumed.load(state)

    assert resumed.learn([batch]) == expected
    assert torch.equal(resumed.loss.log_variance, uncertainty)


def _copy(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value


def test_the_reported_loss_is_the_unbalanced_one(make_plan, batch):
    """So that early stopping's threshold keeps its meaning."""
    plain = Learner(make_plan()).learn([batch])
    balanced = Learner(make_plan(UNCERTAIN)).learn([batch])
    assert balanced == plain
    weights = torch.tensor(make_plan().config.model.loss_weights)
    assert plain[0] == pytest.approx(float((torch.tensor(plain[1]) * weights).sum()))


def test_checkpoints_of_a_run_hold_the_uncertainties(make_plan, cells, tmp_path):
    list(train(make_plan(UNCERTAIN), [TrainingPair(cells, None)], tmp_path))
    state = load_checkpoint(tmp_path / "checkpoints")
    assert state["loss"]["log_variance"].shape == (3,)
    assert state["loss"]["log_variance"].any()
    # The model file knows nothing of them.
    assert not any("variance" in name for name in state["network"])


def test_every_term_trains(make_plan, batch, seeing_model):
    plan = make_plan(
        "model.loss.mask={focal: 1, tversky: 1, ssim: 0.3}",
        "model.loss.boundary={bce: 1, dice: 1, perceptual: 0.1}",
        "model.loss.distance={rmse: 0.7, ssim: 0.3, mse: 0.1}",
        "model.loss.scales=2",
        f"model.loss.perceptual_model={seeing_model}",
        "optimization.scheduler.name=constant",
    )
    learner = Learner(plan)
    first = learner.learn([batch])[0]
    for _ in range(12):
        last = learner.learn([batch])[0]
    assert last < 0.95 * first


def test_a_missing_perceptual_model_ends_a_training_before_it_starts(
    make_plan, cells, tmp_path
):
    plan = make_plan(
        "model.loss.mask={perceptual: 1}",
        f"model.loss.perceptual_model={tmp_path / 'none.safetensors'}",
    )
    with pytest.raises(DataError, match="there is no file"):
        next(train(plan, [TrainingPair(cells, None)], tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["signed", "skeleton"])
def test_every_kind_of_distance_trains_and_is_validated(
    kind, make_plan, cells, tmp_path
):
    plan = make_plan(
        f"data.targets.distance_kind={kind}",
        "data.targets.boundary_nm=30",
        "model.loss.distance={rmse: 0.7, ssim: 0.3}",
    )
    events = list(train(plan, [TrainingPair(cells, None)], tmp_path))
    validated = [e.metrics["loss"] for e in events if isinstance(e, Validated)]
    assert len(validated) == 2
    assert all(0 < loss < 10 for loss in validated)


def test_a_signed_distance_is_balanced_at_its_surface(make_plan, batch):
    """What lies at 0.3 is outside of a signed distance, but inside of a depth."""
    targets = 0.3 + 0.5 * batch.targets_BCZYX
    same = Batch(batch.image_BCZYX, targets, batch.valid_BCZYX)
    depth = Learner(make_plan()).learn([same])
    signed = Learner(make_plan("data.targets.distance_kind=signed")).learn([same])
    assert depth[1][:2] == signed[1][:2]
    assert depth[1][2] != signed[1][2]
