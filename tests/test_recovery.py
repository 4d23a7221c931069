"""What a training does when its numbers stop being finite."""

from __future__ import annotations

import pytest
import torch

from napari_volseg.checkpoint import load_model
from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.events import Finished, Notice, Progress
from napari_volseg.learner import Learner
from napari_volseg.planning import plan_training
from napari_volseg.runs import Control, TrainingPair
from napari_volseg.training import train

LONG = ["optimization.max_epochs=15", "monitor.early_stopping.enabled=false"]


@pytest.fixture
def start(tiny_config, make_cells, tmp_path):
    """Train with overrides; return the events and the error that ended it."""
    pairs = [TrainingPair(make_cells((12, 64, 64), seed=0), None)]

    def run(*overrides, control=Control, resume=False):
        tree = apply_overrides(
            tiny_config.model_dump(mode="json"),
            [
                "monitor.preview_every_epochs=0",
                "monitor.val_every_epochs=100",
                *overrides,
            ],
        )
        plan = plan_training(build_config(tree), pairs)
        events, error = [], None
        try:
            for event in train(
                plan, pairs, tmp_path, resume=resume, read_control=control
            ):
                events.append(event)
        except DataError as caught:
            error = caught
        return events, error

    return run


@pytest.fixture
def eager(monkeypatch):
    """Let checkpoints be saved after every step, however long that takes."""
    monkeypatch.setattr("napari_volseg.pacing._SAVING_SHARE", 1.0)
    return "monitor.checkpoint.every_minutes=1e-9"


@pytest.fixture
def spoil(monkeypatch):
    """Make the gradient of chosen steps infinite, as the step counter sees them."""
    clip = torch.nn.utils.clip_grad_norm_

    def use(is_bad):
        original = Learner._update

        def update(self, loss):
            bad = is_bad(self)

            def clipped(parameters, limit):
                norm = clip(parameters, limit)
                return norm * float("nan") if bad else norm

            monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
            original(self, loss)

        monkeypatch.setattr(Learner, "_update", update)

    return use


def _warnings(events):
    return [e.message for e in events if isinstance(e, Notice) and e.level == "warning"]


def _skipped(events):
    return [e.skipped for e in events if isinstance(e, Progress)][-1]


def test_steps_that_are_not_finite_are_counted_and_change_nothing(
    start, spoil, tmp_path
):
    spoil(lambda learner: True)
    events, _ = start("optimization.max_epochs=1")
    assert _skipped(events) == 2
    weights = load_checkpoint(tmp_path / "checkpoints")["network"]
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_one_bad_step_does_not_disturb_the_rest(start, spoil):
    spoil(lambda learner: learner.step == 1)
    events, error = start(*LONG, "optimization.max_epochs=3")
    assert error is None
    assert events[-1].reason == "completed"
    assert _skipped(events) == 1
    assert not any("went back" in message for message in _warnings(events))


def test_steps_that_stay_infinite_are_rescued_with_half_the_rate(
    start, spoil, tmp_path
):
    spoil(lambda learner: learner.step >= 4 and learner.record.rescues == 0)
    events, error = start(*LONG, "optimization.scheduler.name=constant")
    assert error is None
    assert events[-1].reason == "completed"
    (message,) = [m for m in _warnings(events) if "went back" in m]
    assert "the beginning" in message
    assert "0.0005" in message
    assert "gradient_clip_val=0.3" in message
    rates = {e.lr for e in events if isinstance(e, Progress)}
    assert rates == {1e-3, 5e-4}
    assert _skipped(events) == 20


def test_a_rescue_takes_the_last_good_checkpoint(start, spoil, eager):
    spoil(lambda learner: learner.step >= 9 and learner.record.rescues == 0)
    events, _ = start(*LONG, eager)
    assert any("the checkpoint of step 9" in m for m in _warnings(events))


def test_the_second_rescue_goes_further_back_and_to_32_bits(
    start, spoil, eager, tmp_path
):
    spoil(lambda learner: learner.step >= 9 and learner.record.rescues < 2)
    events, error = start(
        *LONG,
        "optimization.precision=bf16-mixed",
        "optimization.scheduler.name=constant",
        eager,
    )
    assert error is None
    first, second = [m for m in _warnings(events) if "went back" in m]
    assert "step 9" in first
    assert "step 8" in second
    assert "32-bit" in second
    assert "0.00025" in second
    state = load_checkpoint(tmp_path / "checkpoints")
    assert state["record"]["rescues"] == 2
    assert load_model(tmp_path / "model.safetensors").intensities


def test_the_third_time_it_stops_in_words(start, spoil, eager, tmp_path):
    spoil(lambda learner: learner.step >= 3)
    events, error = start(*LONG, eager)
    assert "after two returns" in str(error)
    assert "optimization.gradient_clip_val=0.3" in str(error)
    assert not any(isinstance(e, Finished) for e in events)
    state = load_checkpoint(tmp_path / "checkpoints")
    assert all(torch.isfinite(w).all() for w in state["network"].values())


def test_a_stop_among_bad_steps_resumes_among_them(start, spoil, tmp_path):
    spoil(lambda learner: learner.step >= 4 and learner.record.rescues == 0)
    asked = []

    def stop():
        asked.append(1)
        return Control(stop=len(asked) > 10)

    start(*LONG, control=stop)
    record = load_checkpoint(tmp_path / "checkpoints")["record"]
    assert (record["step"], record["skipped_in_row"]) == (10, 6)
    events, error = start(*LONG, resume=True)
    assert error is None
    assert events[-1].reason == "completed"


def test_statistics_that_a_bad_batch_spoilt_are_begun_anew(start, spoil, tmp_path):
    def poison(learner):
        if learner.step == 1:
            for module in learner.network.modules():
                if isinstance(module, torch.nn.BatchNorm3d):
                    module.running_mean.fill_(float("nan"))
        return learner.step == 1

    spoil(poison)
    events, _ = start(
        "model.rsunet_norm=batch",
        "optimization.max_epochs=4",
        "optimization.ema_decay=0.9",
    )
    assert events[-1].reason == "completed"
    state = load_checkpoint(tmp_path / "checkpoints")
    assert any("running_mean" in name for name in state["network"])
    for weights in (state["network"], state["average"]["network"]):
        assert all(torch.isfinite(w).all() for w in weights.values())


def test_a_loss_that_diverges_ends_the_training(start):
    events, _ = start(*LONG[:1], "monitor.early_stopping.divergence_threshold=0.001")
    assert events[-1].reason == "stopped"
    assert "divergence_threshold=0.001" in events[-1].message
    assert "optimization.optimizer.lr=0.0005" in events[-1].message


def test_without_a_limit_nothing_diverges(start):
    events, _ = start("monitor.early_stopping.divergence_threshold=null")
    assert events[-1].reason == "completed"
