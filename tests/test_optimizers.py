import pytest
import torch

from napari_volseg.config import OptimizationConfig, SchedulerConfig
from napari_volseg.optimizers import Schedule, build_optimizer


def test_plateau_lowers_the_rate_after_its_patience_and_not_below_the_floor():
    config = SchedulerConfig(
        name="ReduceLROnPlateau", factor=0.5, patience=2, min_lr=3e-4
    )
    schedule = Schedule(config, 1e-3)
    rates = []
    for loss in [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]:
        schedule.end_epoch(loss)
        rates.append(schedule.lr(0, 0))
    assert rates == [1e-3] * 4 + [5e-4] * 3 + [3e-4] * 2


def test_plateau_agrees_with_torch():
    losses = [1.0, 0.9, 0.95, 0.9, 0.91, 0.8, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85]
    config = SchedulerConfig(name="ReduceLROnPlateau", factor=0.6, patience=1, min_lr=0)
    ours = Schedule(config, 1.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.6, patience=1, threshold=1e-4
    )
    for loss in losses:
        ours.end_epoch(loss)
        theirs.step(loss)
        assert ours.lr(0, 0) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_warm_up_rises_and_the_cosine_falls_to_the_floor():
    schedule = Schedule(SchedulerConfig(warmup_steps=10, min_lr=1e-5), 1e-2)
    warm = [schedule.lr(step, 0.0) for step in range(12)]
    assert warm[0] < 0.2 * 1e-2
    assert warm == sorted(warm)
    fall = [schedule.lr(100, p / 10) for p in range(11)]
    assert fall == sorted(fall, reverse=True)
    assert fall[0] == pytest.approx(1e-2)
    assert fall[-1] == pytest.approx(1e-5)


def test_the_state_of_a_schedule_is_all_of_it():
    config = SchedulerConfig(name="ReduceLROnPlateau", patience=1)
    first, second = Schedule(config, 1.0), Schedule(config, 1.0)
    for loss in (1.0, 1.0):
        first.end_epoch(loss)
    second.load(first.state())
    assert [first.end_epoch(1.0), first.lr(0, 0)] == [
        second.end_epoch(1.0),
        second.lr(0, 0),
    ]


def test_norms_and_biases_are_not_decayed():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))
    optimizer = build_optimizer(network, OptimizationConfig())
    decayed, free = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [5]
    assert {p.ndim for p in free["params"]} == {1}
    assert free["weight_decay"] == 0
