"""The learning-rate finder: curves with a known best rate, and a tiny network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from napari_volseg.checkpoint import save_model
from napari_volseg.cli import main
from napari_volseg.errors import DataError
from napari_volseg.io import write_hdf5
from napari_volseg.learner import Learner
from napari_volseg.lr_finding import explore_rates, read_curve
from napari_volseg.planning import plan_training
from napari_volseg.runs import TrainingPair, create_run

TINY = [
    "data.patch_size=[8,16,16]",
    "model.filters=[4,8]",
    "system.device=cpu",
    "system.training.num_workers=0",
    "optimization.precision=32",
]


def _curve(steepest, noise=0.0, n=100):
    """Return a loss that falls around a rate and explodes ten times higher."""
    rates = np.geomspace(1e-6, 1, n)
    t = np.log10(rates / steepest)
    losses = 2 - 1.2 / (1 + np.exp(-4 * t)) + 0.5 * np.maximum(0, t - 1) ** 2 * 10
    rng = np.random.default_rng(0)
    return rates.tolist(), (losses * rng.normal(1, noise, n)).tolist()


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("steepest", [1e-4, 1e-3, 1e-2])
def test_the_rate_of_the_steepest_fall_is_suggested(steepest, noise):
    curve = read_curve(*_curve(steepest, noise))
    assert steepest / 3 < curve.suggestion < steepest * 3
    assert curve.suggestion < curve.lowest < steepest * 30
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) == 100


def test_the_suggestion_has_two_digits():
    suggestion = read_curve(*_curve(1e-3)).suggestion
    assert float(f"{suggestion:.1e}") == suggestion


@pytest.mark.parametrize("losses", [[1.0] * 50, np.linspace(1, 9, 50).tolist()])
def test_a_loss_that_falls_nowhere_suggests_nothing(losses):
    with pytest.raises(DataError, match="falls at no learning rate"):
        read_curve(np.geomspace(1e-6, 1, 50).tolist(), losses)


def test_a_loss_that_is_not_finite_at_once_suggests_nothing():
    with pytest.raises(DataError, match="not finite any more after 3 steps"):
        read_curve([1e-6, 2e-6, 3e-6], [1.0, 1.0, 1.0])


def test_the_rates_rise_by_one_factor_and_the_weights_follow(
    tiny_config, make_cells, tmp_path
):
    pairs = [TrainingPair(make_cells((12, 64, 64)), None)]
    plan = plan_training(tiny_config, pairs)
    steps = list(explore_rates(plan, pairs, tmp_path, n_steps=25, first=1e-4, last=0.1))
    rates, losses = np.array(steps).T
    np.testing.assert_allclose(rates, np.geomspace(1e-4, 0.1, 25)[: len(rates)])
    assert losses[12:].min() < losses[:3].mean() - 0.1
    again = explore_rates(plan, pairs, tmp_path, n_steps=25, first=1e-4, last=0.1)
    assert [next(again) for _ in range(3)] == steps[:3]
    again.close()


def test_it_begins_with_the_weights_that_a_training_would(
    tiny_config, make_cells, tmp_path
):
    pairs = [TrainingPair(make_cells((12, 64, 64)), None)]
    plan = plan_training(tiny_config, pairs)
    learner, path = Learner(plan), tmp_path / "model.safetensors"
    weights = {k: torch.zeros_like(w) for k, w in learner.network.state_dict().items()}
    save_model(path, weights, learner.metadata())
    model = tiny_config.model.model_copy(update={"initial_weights": str(path)})
    begun = plan_training(tiny_config.model_copy(update={"model": model}), pairs)
    first, second = (next(explore_rates(p, pairs, tmp_path)) for p in (plan, begun))
    assert first[0] == second[0]
    assert first[1] != second[1]


@pytest.fixture
def em(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOLSEG_RUNS", str(tmp_path / "runs"))
    arrays = {"raw": cells.image.data, "labels": cells.labels_ZYX}
    write_hdf5(tmp_path / "em.h5", arrays, cells.image.voxel_size)
    return ["--image", "em.h5:raw", "--label", "em.h5:labels"]


def test_the_command_prints_a_rate_and_writes_curve_and_numbers(em, tmp_path, capsys):
    assert main(["find-lr", "quick", *em, *TINY, "--steps", "40", "-o", "lr.png"]) == 0
    out = capsys.readouterr().out
    assert "suggested: optimization.optimizer.lr=" in out
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    command = ["find-lr", "quick", *em, *TINY, "--steps", "40", "-o", "lr.json"]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((tmp_path / "lr.json").read_text())
    assert f"={answer['suggestion']:g}\n" in out
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_run_folder_is_only_read(em, tiny_config, cells, tmp_path, capsys):
    folder = create_run(tiny_config, [TrainingPair(cells, None)], tmp_path, "run")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert main(["find-lr", str(folder), "--steps", "40"]) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "5"], "at least 20"),
        (["-o", "lr.txt"], "must end in .png or .json"),
        (["-o", "missing/lr.json"], "make it first"),
    ],
)
def test_what_cannot_work_is_said_before_it_starts(em, capsys, arguments, message):
    assert main(["find-lr", "quick", *em, *arguments]) == 2
    assert message in capsys.readouterr().err
