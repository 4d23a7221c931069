import math

import pytest
import torch

from napari_volseg.config import OptimizationConfig, OptimizerConfig, SchedulerConfig
from napari_volseg.schedules import Schedule, stages_notice

NAMES = ["ReduceLROnPlateau", "warmup_cosine", "one_cycle", "stages", "constant"]


def _schedule(
    lr=1e-3, steps_per_epoch=1, *, minutes=None, decay=(0.01, None), **kwargs
):
    optimizer = OptimizerConfig(lr=lr, weight_decay=decay[0], weight_decay_end=decay[1])
    return Schedule(
        OptimizationConfig(
            optimizer=optimizer,
            scheduler=SchedulerConfig(**kwargs),
            max_minutes=minutes,
        ),
        steps_per_epoch,
    )


def test_plateau_lowers_the_rate_after_its_patience_and_not_below_the_floor():
    schedule = _schedule(name="ReduceLROnPlateau", factor=0.5, patience=2, min_lr=3e-4)
    rates, lowered = [], []
    for loss in [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]:
        lowered.append(schedule.end_epoch(loss))
        rates.append(schedule.lr(0, 0))
    assert rates == [1e-3] * 4 + [5e-4] * 3 + [3e-4] * 4
    assert lowered.count(True) == 2


def test_plateau_counts_epochs_also_where_not_every_one_is_validated():
    schedule = _schedule(name="ReduceLROnPlateau", factor=0.5, patience=4)
    lowered = [schedule.end_epoch(1.0, n_epochs=2) for _ in range(4)]
    assert lowered == [False, False, False, True]  # 2, 4 and 6 epochs without a gain


def test_plateau_begins_anew_where_losses_do_not_compare():
    schedule = _schedule(name="ReduceLROnPlateau", factor=0.5, patience=2)
    schedule.end_epoch(0.1)
    schedule.forget()
    assert not any(schedule.end_epoch(loss) for loss in (0.9, 0.8, 0.7, 0.6, 0.5))


def test_plateau_does_not_raise_a_rate_below_its_floor():
    schedule = _schedule(1e-12, name="ReduceLROnPlateau", min_lr=1e-6)
    assert schedule.lr(0, 0) == 1e-12


@pytest.mark.parametrize("name", ["warmup_cosine", "one_cycle"])
def test_no_rate_rises_to_a_floor_above_it(name):
    schedule = _schedule(1e-5, name=name, min_lr=1e-3, warmup_steps=0)
    assert max(schedule.lr(step, step / 20) for step in range(21)) <= 1e-5


def test_stages_follow_epochs_that_have_become_longer():
    schedule = _schedule(
        steps_per_epoch=4, name="stages", stages=[(2, 1e-2), (1, 1e-3)]
    )
    schedule.shift = 6  # two epochs of one step are done
    assert [schedule.lr(step, 0) for step in (1, 2)] == [1e-2, 1e-3]


@pytest.mark.parametrize("cooldown", [0, 3])
@pytest.mark.parametrize(("factor", "patience", "floor"), [(0.5, 1, 0), (0.6, 3, 1e-7)])
def test_plateau_agrees_with_torch(factor, patience, floor, cooldown):
    noise = torch.rand(60, generator=torch.Generator().manual_seed(1)).tolist()
    losses = [1 / (1 + i) + 0.3 * n for i, n in enumerate(noise)]
    settings = {
        "factor": factor,
        "patience": patience,
        "min_lr": floor,
        "threshold": 1e-4,
        "cooldown": cooldown,
    }
    ours = _schedule(1.0, name="ReduceLROnPlateau", **settings)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    for loss in losses:
        ours.end_epoch(loss)
        theirs.step(loss)
        assert ours.lr(0, 0) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.lr(0, 0) < 0.5


def test_warm_up_rises_and_the_cosine_falls_to_the_floor():
    schedule = _schedule(1e-2, warmup_steps=10, min_lr=1e-5)
    warm = [schedule.lr(step, 0.0) for step in range(12)]
    assert warm[0] < 0.2 * 1e-2
    assert warm == sorted(warm)
    fall = [schedule.lr(100, p / 10) for p in range(11)]
    assert fall == sorted(fall, reverse=True)
    assert fall[0] == pytest.approx(1e-2)
    assert fall[-1] == pytest.approx(1e-5)


def test_one_cycle_agrees_with_torch():
    n = 2000
    ours = _schedule(1e-2, name="one_cycle", min_lr=1e-6, rise=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0, 0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-2, total_steps=n, final_div_factor=1e-2 / 25 / 1e-6
    )
    for step in range(n):
        group = optimizer.param_groups[0]
        assert ours.lr(step, step / n) == pytest.approx(group["lr"], abs=2e-5)
        assert ours.momentum(step / n) == pytest.approx(group["momentum"], abs=5e-4)
        optimizer.step()
        if step < n - 1:
            theirs.step()


def test_stages_are_counted_in_epochs():
    schedule = _schedule(steps_per_epoch=10, name="stages")
    rates = [schedule.lr(10 * epoch, 0.0) for epoch in (0, 29, 30, 79, 80, 99, 500)]
    assert rates == [1e-4, 1e-4, 5e-5, 5e-5, 1e-5, 1e-5, 1e-5]
    assert schedule.lr(299, 0.0) == 1e-4


def test_stages_share_a_time_budget():
    schedule = _schedule(steps_per_epoch=10, name="stages", minutes=5)
    rates = [schedule.lr(3, p) for p in (0.0, 0.29, 0.31, 0.79, 0.81, 1.0)]
    assert rates == [1e-4, 1e-4, 5e-5, 5e-5, 1e-5, 1e-5]


@pytest.mark.parametrize(
    ("max_epochs", "said"), [(100, None), (200, "holds for the rest"), (50, "cut off")]
)
def test_stages_that_do_not_fill_the_epochs_are_told(max_epochs, said):
    def notice(name, minutes=None):
        scheduler = SchedulerConfig(name=name)
        return stages_notice(
            OptimizationConfig(
                scheduler=scheduler, max_epochs=max_epochs, max_minutes=minutes
            )
        )

    assert (said or "") in (notice("stages") or "")
    assert (notice("stages") is None) == (said is None)
    assert notice("stages", minutes=5) is None
    assert notice("constant") is None


def test_weight_decay_runs_straight_from_its_start_to_its_end():
    schedule = _schedule(decay=(5e-4, 1e-5))
    values = [schedule.weight_decay(p / 4) for p in range(5)]
    assert values[0] == 5e-4
    assert values[-1] == pytest.approx(1e-5)
    assert values[2] == pytest.approx((5e-4 + 1e-5) / 2)
    assert schedule.weight_decay(1.5) == pytest.approx(1e-5)
    assert _schedule(decay=(5e-4, None)).weight_decay(1.0) == 5e-4


@pytest.mark.parametrize("name", NAMES)
def test_every_rate_is_positive_bounded_and_halved_by_a_rescue(name):
    schedule = _schedule(1e-3, name=name)
    rates = [schedule.lr(step, step / 200) for step in range(201)]
    assert all(0 < rate <= 1e-3 for rate in rates)
    assert schedule.momentum(0.5) is None or name == "one_cycle"
    schedule.halve()
    halved = [schedule.lr(step, step / 200) for step in range(201)]
    assert halved == pytest.approx([rate / 2 for rate in rates])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_the_state_of_a_schedule_is_all_of_it(name, stop):
    losses = [math.cos(i) + 2 for i in range(20)]
    settings = {"name": name, "patience": 1, "cooldown": 2}
    whole, parts = _schedule(1.0, **settings), _schedule(1.0, **settings)
    whole.halve()
    parts.halve()
    for loss in losses[:stop]:
        whole.end_epoch(loss)
        parts.end_epoch(loss)
    resumed = _schedule(1.0, **settings)
    resumed.load(parts.state())
    for i, loss in enumerate(losses[stop:]):
        assert whole.end_epoch(loss) == resumed.end_epoch(loss)
        assert whole.lr(i, i / 20) == resumed.lr(i, i / 20)
