"""From gradients to weights, and which weights are the result."""

from __future__ import annotations

import math

import pytest
import torch

from napari_volseg.checkpoint import load_model
from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import OptimizationConfig, apply_overrides, build_config
from napari_volseg.planning import plan_training
from napari_volseg.runs import TrainingPair
from napari_volseg.training import train
from napari_volseg.updating import Updater, mend_statistics

RATES = (0.1, 0.0, None)


def _network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.BatchNorm3d(2)
    )


def _updater(network, precision="32", **settings):
    config = OptimizationConfig(**settings)
    return Updater(network, torch.nn.Identity(), config, "cpu", precision)


def _give_gradient(network, value):
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, value)


def _weights(network):
    return [weight.detach().clone() for weight in network.parameters()]


def _alone(holds):
    return holds


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
@pytest.mark.parametrize(
    ("gradient", "loss"),
    [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)],
)
def test_what_is_not_finite_changes_neither_weights_nor_memory(name, gradient, loss):
    network = _network()
    updater = _updater(network, ema_decay=0.9, optimizer={"name": name})
    _give_gradient(network, 1.0)
    assert updater.apply(1.0, RATES, _alone)
    weights, state = _weights(network), updater.optimizer.state_dict()["state"]
    memory = {k: {n: v.clone() for n, v in s.items()} for k, s in state.items()}
    average = _weights(updater.average.network)
    _give_gradient(network, gradient)
    assert not updater.apply(loss, RATES, _alone)
    for before, after in zip(weights, _weights(network), strict=True):
        assert torch.equal(before, after)
    for before, after in zip(average, _weights(updater.average.network), strict=True):
        assert torch.equal(before, after)
    for key, values in updater.optimizer.state_dict()["state"].items():
        for part, value in values.items():
            assert torch.equal(value, memory[key][part])
    _give_gradient(network, 1.0)
    assert updater.apply(1.0, RATES, _alone)
    assert all(torch.isfinite(w).all() for w in network.parameters())


def test_a_bad_gradient_elsewhere_holds_all_back():
    network = _network()
    updater, before = _updater(network), _weights(network)
    _give_gradient(network, 1.0)
    assert not updater.apply(1.0, RATES, lambda holds: False)
    assert all(map(torch.equal, before, _weights(network)))


@pytest.mark.parametrize("clip", [0, 0.3, 1e6])
def test_the_norm_is_that_before_clipping(clip):
    network = _network()
    n = sum(w.numel() for w in network.parameters())
    updater = _updater(network, gradient_clip_val=clip, optimizer={"name": "SGD"})
    _give_gradient(network, 2.0)
    before = _weights(network)
    updater.apply(1.0, (1.0, 0.0, None), _alone)
    assert updater.grad_norm == pytest.approx(2 * math.sqrt(n))
    moved = [a - b for a, b in zip(before, _weights(network), strict=True)]
    length = math.sqrt(sum(float((m**2).sum()) for m in moved)) / 1.9  # Nesterov
    limit = clip or math.inf
    assert length == pytest.approx(min(limit, 2 * math.sqrt(n)), rel=1e-4)


def test_an_infinite_gradient_lowers_the_scale_and_finite_ones_raise_it():
    network = _network()
    scaler = {"init_scale": 8.0, "growth_interval": 2, "growth_factor": 4.0}
    updater = _updater(network, "16", scaler=scaler)
    scales = []
    for value in (math.inf, 1.0, 1.0, 1.0):
        updater.scaler.scale(torch.zeros(1))  # as a backward pass would
        _give_gradient(network, value)
        updater.apply(1.0, RATES, _alone)
        scales.append(updater.scaler.get_scale())
    assert scales == [4.0, 4.0, 16.0, 16.0]
    assert updater.is_searching
    assert not _updater(network).is_searching


def test_statistics_are_mended_only_where_they_are_spoilt():
    network = torch.nn.Sequential(*(torch.nn.BatchNorm3d(2) for _ in range(2)))
    network(torch.rand(2, 2, 3, 3, 3))
    kept = network[1].running_mean.clone()
    network[0].running_var[0] = math.inf
    mend_statistics(network)
    assert torch.equal(network[0].running_var, torch.ones(2))
    assert torch.equal(network[1].running_mean, kept)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_averaged_weights_are_what_is_saved(tiny_config, make_cells, tmp_path, decay):
    pairs = [TrainingPair(make_cells((12, 64, 64)), None)]
    overrides = [
        f"optimization.ema_decay={decay}",
        "optimization.max_epochs=1",  # so that the last weights are the best
        "data.val_fraction=0",
    ]
    tree = apply_overrides(tiny_config.model_dump(mode="json"), overrides)
    plan = plan_training(build_config(tree), pairs)
    list(train(plan, pairs, tmp_path))
    state = load_checkpoint(tmp_path / "checkpoints")
    assert (state["average"] is None) == (decay == 0)
    expected = (state["average"] or state)["network"]
    if decay:
        trained = state["network"]
        assert any(not torch.equal(trained[k], expected[k]) for k in expected)
    for file in ("model.safetensors", "checkpoints/last.ckpt"):
        found = load_model(tmp_path / file).network.state_dict()
        assert all(torch.equal(expected[k], found[k]) for k in expected)
