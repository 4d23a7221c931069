"""Signs on curves with a known story, and none on curves that are well."""

from __future__ import annotations

import numpy as np
import pytest

from napari_volseg.config import OptimizationConfig, OptimizerConfig, SchedulerConfig
from napari_volseg.signs import Epoch, find_signs

NAMES = ["ReduceLROnPlateau", "warmup_cosine", "one_cycle", "stages", "constant"]


def _config(name="constant", lr=1e-3, clip=1.0, **kwargs):
    return OptimizationConfig(
        optimizer=OptimizerConfig(lr=lr),
        scheduler=SchedulerConfig(name=name, **kwargs),
        gradient_clip_val=clip,
    )


def _epochs(train, val=None, lr=1e-3, skipped=0.0):
    n = len(train)
    vals = [None] * n if val is None else list(val)
    rates = [lr] * n if np.isscalar(lr) else list(lr)
    return [
        Epoch(float(t), None if v is None else float(v), float(r), skipped)
        for t, v, r in zip(train, vals, rates, strict=True)
    ]


def _all_signs(epochs, config):
    """Return every warning of a training, epoch by epoch."""
    return {
        sign.kind: sign.message
        for n in range(1, len(epochs) + 1)
        for sign in find_signs(epochs[:n], config)
        if sign.level == "warning"
    }


def _healthy(seed, n=200, noise=0.03, val_noise=0.1):
    """Return curves like those of real trainings: a fall with noise on it."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    fall = 0.9 + 1.5 * np.exp(-t / 12) - 0.25 * t / n
    train = fall * rng.normal(1, noise, n)
    val = 0.95 * fall * rng.normal(1, val_noise, n)
    return train, val, 1e-3 * 0.5 * (1 + np.cos(np.pi * t / n)) + 1e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(10))
def test_a_training_that_goes_well_is_left_alone(name, seed):
    train, val, falling = _healthy(seed)
    lr = falling if name in ("warmup_cosine", "one_cycle") else 1e-3
    signs = _all_signs(_epochs(train, val, lr), _config(name))
    # It flattens in the end, which is worth a word if the rate stays up by itself.
    assert set(signs) <= ({"plateau"} if name in ("constant", "stages") else set())


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_goes_on_falling_is_left_alone(name):
    rng = np.random.default_rng(0)
    train = np.linspace(3, 0.5, 200) * rng.normal(1, 0.05, 200)
    assert _all_signs(_epochs(train), _config(name)) == {}


REAL = {
    "root cells": (
        "2.28 1.55 1.35 1.27 1.27 1.18 1.13 1.09 1.08 1.08 1.06 1.08 1.09 "
        "1.06 1.03 1.04 1.01 1.03 0.963 1.01 0.977",
        "1.99 1.7 1.58 1.34 1.47 1.31 1.26 1.28 1.19 1.21 1.18 1.19 1.22 1.22 "
        "1.19 1.22 1.31 1.2 1.21 1.18 1.19",
    ),
    "chloroplasts, few objects": (
        "2.39 1.86 1.71 1.56 1.62 1.54 1.45 1.42 1.45 1.42 1.37 1.36 1.34 "
        "1.36 1.27 1.23 1.22 1.17 1.1",
        "1.78 1.59 1.45 1.4 1.45 1.3 1.29 1.2 1.38 1.34 1.41 1.02 1.66 0.964 "
        "1.05 0.942 0.993 0.939 0.909",
    ),
    "nuclei": (
        "2.1 1.32 1.35 1.16 1.09 1.04 1.02 1 1.01 0.968",
        "1.09 1.14 0.902 0.876 0.756 0.724 0.753 0.657 0.647 0.661",
    ),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("schedule", NAMES)
def test_curves_of_real_trainings_give_no_alarm(name, schedule):
    train, val = (list(map(float, curve.split())) for curve in REAL[name])
    assert _all_signs(_epochs(train, val), _config(schedule)) == {}


def test_wild_swings_ask_for_half_the_rate():
    train = [1.0 + 0.6 * (-1) ** i for i in range(20)]
    message = _all_signs(_epochs(train), _config(lr=1e-3))["oscillation"]
    assert "optimization.optimizer.lr=0.0005" in message
    assert "accumulate_grad_batches=2" in message
    assert "between 0.4 and 1.6" in message


def test_a_steep_fall_is_no_swing():
    train = 3 * 0.6 ** np.arange(20)
    assert "oscillation" not in _all_signs(_epochs(train), _config("warmup_cosine"))


@pytest.mark.parametrize("name", ["constant", "ReduceLROnPlateau"])
def test_a_plateau_at_an_unchanged_rate_is_told(name):
    rng = np.random.default_rng(0)
    config = _config(name, patience=20)
    flat = 0.8 + rng.normal(0, 0.002, 60)
    message = _all_signs(_epochs(flat), config)["plateau"]
    assert "0.8" in message
    assert "optimization.optimizer.lr=0.0005" in message
    lowered = np.r_[np.full(30, 1e-3), np.full(30, 5e-4)]
    assert "plateau" not in _all_signs(_epochs(flat, lr=lowered)[15:45], config)


def test_a_plateau_under_a_schedule_that_lowers_the_rate_is_no_news():
    flat = np.full(60, 0.8)
    for name in ("warmup_cosine", "one_cycle"):
        assert not _all_signs(_epochs(flat), _config(name))
    assert not _all_signs(_epochs(flat, lr=1e-4), _config("stages"))
    assert "plateau" in _all_signs(_epochs(flat, lr=1e-5), _config("stages"))
    at_floor = _config("ReduceLROnPlateau", patience=5, min_lr=1e-6)
    assert not _all_signs(_epochs(flat, lr=1e-6), at_floor)


def test_a_loss_that_hardly_falls_in_a_hundred_epochs_is_stuck():
    rng = np.random.default_rng(0)
    train = 2.2 - 0.002 * np.arange(120) + rng.normal(0, 0.02, 120)
    signs = _all_signs(_epochs(train), _config("warmup_cosine"))
    assert set(signs) == {"stuck"}
    assert "optimization.optimizer.lr=0.0005" in signs["stuck"]
    assert "gradient_clip_val=0.3" in signs["stuck"]
    assert not _all_signs(_epochs(train[:99]), _config("warmup_cosine"))
    assert not _all_signs(_epochs(train / 5), _config("warmup_cosine"))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_growing_gap_between_training_and_held_out_loss_is_told(noise):
    rng = np.random.default_rng(0)
    t = np.arange(100)
    train = 0.6 + 1.5 * np.exp(-t / 20)
    val = 1.0 + np.exp(-t / 10) + np.maximum(0, t - 30) * 0.01
    val = val * rng.normal(1, noise, 100)
    signs = _all_signs(_epochs(train, val), _config("warmup_cosine"))
    assert set(signs) == {"overfitting"}
    assert "annotate more" in signs["overfitting"]


def test_a_constant_gap_is_no_overfitting():
    t = np.arange(100)
    train = 0.6 + 1.5 * np.exp(-t / 20)
    assert not _all_signs(_epochs(train, train + 0.4), _config("warmup_cosine"))


def test_skipped_steps_ask_for_clipping_but_not_while_a_scale_is_sought():
    epochs = _epochs([2.0, 1.8], skipped=0.2)
    assert not find_signs(epochs[:1], _config())
    (sign,) = find_signs(epochs, _config())
    assert "20%" in sign.message
    assert "gradient_clip_val=0.3" in sign.message
    (sign,) = find_signs(epochs, _config(clip=0.2))
    assert "clipped at 0.2 already" in sign.message


def test_good_signs_are_told_once_each():
    told = []
    curve = [0.9, 0.6, 0.45, 0.47, 0.51, 0.44, 0.3, 0.15, 0.16, 0.07]
    epochs = _epochs(curve)
    for n in range(1, len(curve) + 1):
        told += [s.kind for s in find_signs(epochs[:n], _config()) if s.level == "info"]
    assert told == ["below 0.5", "below 0.2", "below 0.08"]


def test_no_epochs_and_infinite_losses_are_borne():
    assert find_signs([], _config()) == []
    assert find_signs(_epochs([np.inf] * 150), _config()) == []
    assert find_signs(_epochs([np.inf] * 150, [np.inf] * 150), _config()) == []
