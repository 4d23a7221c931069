"""The same seed gives the same losses, and a run cut off anywhere goes on exactly."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.config import apply_overrides, build_config
from napari_volseg.events import CheckpointSaved, Progress
from napari_volseg.learner import Learner
from napari_volseg.planning import plan_training
from napari_volseg.preparing import prepare_patches
from napari_volseg.runs import TrainingPair
from napari_volseg.training import train

LAST = 8
COMMON = [
    "optimization.max_epochs=4",
    "monitor.preview_every_epochs=0",
    "monitor.checkpoint.save_top_k=2",
]
CASES = {
    "plateau": [
        "optimization.scheduler.name=ReduceLROnPlateau",
        "optimization.scheduler.patience=0",
        "optimization.scheduler.factor=0.6",
        "optimization.scheduler.threshold=0.2",
        "optimization.scheduler.min_lr=1e-7",
        "optimization.scheduler.cooldown=1",
    ],
    "warm-up cosine, decay schedule, average": [
        "optimization.scheduler.name=warmup_cosine",
        "optimization.scheduler.warmup_steps=3",
        "optimization.optimizer.weight_decay=5e-4",
        "optimization.optimizer.weight_decay_end=1e-5",
        "optimization.ema_decay=0.99",
        "model.rsunet_norm=batch",
    ],
    "one cycle, SGD": [
        "optimization.scheduler.name=one_cycle",
        "optimization.optimizer.name=SGD",
        "optimization.optimizer.lr=0.05",
    ],
    "one cycle, AdamW, average": [
        "optimization.scheduler.name=one_cycle",
        "optimization.ema_decay=0.9",
    ],
    "stages, accumulation, workers": [
        "optimization.scheduler.name=stages",
        "optimization.scheduler.stages=[[1,1e-3],[2,1e-4],[1,1e-5]]",
        "optimization.accumulate_grad_batches=2",
        "data.iter_num_per_epoch=8",
        "system.training.num_workers=2",
    ],
    "constant, learnt balance": [
        "optimization.scheduler.name=constant",
        "model.loss_balance=uncertainty",
    ],
}


@pytest.fixture
def prepared(tiny_config, make_cells, monkeypatch):
    """Report every step, save at random ones, and plan a case."""
    monkeypatch.setattr("napari_volseg.pacing._REPORT_SECONDS", 0.0)
    coin = random.Random(0)
    monkeypatch.setattr(
        "napari_volseg.pacing.Pace.checkpoint_due", lambda pace: coin.random() < 0.5
    )
    pairs = [TrainingPair(make_cells((12, 64, 64), seed=0), None)]

    def plan(case):
        tree = apply_overrides(
            tiny_config.model_dump(mode="json"), [*COMMON, *CASES[case]]
        )
        return plan_training(build_config(tree), pairs), pairs

    return plan


def _advance(plan, pairs, folder, until):
    """Train until a step, then vanish without a word; return the losses by step."""
    folder.mkdir(exist_ok=True)
    losses = {}
    events = train(plan, pairs, folder, resume=True)
    for event in events:
        if isinstance(event, Progress) and event.loss is not None:
            losses[event.step] = (event.loss, event.losses, event.lr)
            if until < LAST and event.step >= until:
                break
        if isinstance(event, CheckpointSaved) and event.step >= LAST:
            break
    events.close()
    return losses


def _same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return a == b


def _final_state(folder):
    state = load_checkpoint(folder / "checkpoints")
    assert state["record"]["step"] == LAST
    state["record"].pop("elapsed")
    state["metadata"].pop("created")
    return state


@pytest.mark.parametrize("case", CASES)
def test_a_run_cut_off_at_random_steps_ends_as_if_it_had_not_been(
    prepared, tmp_path, case
):
    plan, pairs = prepared(case)
    whole = _advance(plan, pairs, tmp_path / "whole", LAST)
    assert sorted(whole) == list(range(1, LAST + 1))
    expected = _final_state(tmp_path / "whole")
    for trial in range(2):
        folder = tmp_path / f"parts {trial}"
        stops = random.Random(f"{case}{trial}")
        losses = _advance(plan, pairs, folder, stops.randint(1, LAST - 1))
        assert LAST not in losses
        while LAST not in losses:
            losses |= _advance(plan, pairs, folder, stops.randint(1, LAST))
        assert losses == whole
        final = _final_state(folder)
        for key, value in expected.items():
            assert _same(value, final[key]), key


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(
    prepared, tmp_path
):
    plan, pairs = prepared("warm-up cosine, decay schedule, average")
    first, second = (_advance(plan, pairs, tmp_path / n, LAST) for n in "ab")
    assert first == second
    tree = plan.config.model_dump(mode="json")
    tree["system"]["seed"] += 1
    other = plan_training(build_config(tree), pairs)
    assert _advance(other, pairs, tmp_path / "c", LAST) != first


def test_the_scale_of_16_bit_losses_goes_on_too(prepared):
    plan, pairs = prepared("constant, learnt balance")
    settings = {"init_scale": 2.0**30, "growth_interval": 2, "growth_factor": 4.0}
    tree = plan.config.model_dump(mode="json")
    tree["optimization"]["scaler"] = settings
    plan = replace(
        plan,
        config=build_config(tree),
        compute=replace(plan.compute, precision="16"),
    )
    source = prepare_patches(plan, pairs, None)
    batches = [[source.batch(step, 0)] for step in range(40)]
    whole, first, second = (Learner(plan) for _ in range(3))
    scales = []
    for batch in batches:
        whole.learn(batch)
        scales.append(whole.updater.scaler.get_scale())
    skipped = whole.record.n_skipped
    assert 5 < skipped < 30
    assert scales[0] == 2.0**29
    assert any(b == 4 * a for a, b in itertools.pairwise(scales))
    for batch in batches[: skipped + 1]:
        first.learn(batch)
    second.load(first.state())
    for batch in batches[skipped + 1 :]:
        second.learn(batch)
    assert second.updater.scaler.state_dict() == whole.updater.scaler.state_dict()
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, second.network.state_dict()[name])


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from napari_volseg import pacing, worker
from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.events import Progress

pacing._REPORT_SECONDS, pacing._SAVING_SHARE = 0.0, 1.0

def job(folder, resume, kill_at=None):
    if os.fork() == 0:
        def show(event):
            if isinstance(event, Progress) and event.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        finished = worker.run_job(folder, resume=resume, show=show)
        print(finished, flush=True)
        os._exit(0 if finished.reason == "completed" else 1)
    return os.wait()[1]

base = Path(sys.argv[1])
assert job(base / "whole", False) == 0
expected = load_checkpoint(base / "whole/checkpoints")
for step in (3, 6):
    assert job(base / f"killed-{step}", False, step) == signal.SIGKILL
    moved = base / "moved" / f"elsewhere-{step}"
    shutil.copytree(base / f"killed-{step}", moved)
    shutil.rmtree(base / f"killed-{step}")
    assert job(moved, True) == 0
    found = load_checkpoint(moved / "checkpoints")
    for part in ("network", "average"):
        a, b = ((s[part] or {}) for s in (expected, found))
        a, b = a.get("network", a), b.get("network", b)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), part
    assert expected["record"]["epochs"] == found["record"]["epochs"]
    print("same", step)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills a forked process")
def test_a_killed_run_copied_elsewhere_ends_as_if_neither_had_happened(
    tiny_config, make_cells, tmp_path
):
    from napari_volseg.runs import create_run

    tree = apply_overrides(
        tiny_config.model_dump(mode="json"),
        [
            *COMMON,
            *CASES["warm-up cosine, decay schedule, average"],
            "monitor.checkpoint.every_minutes=1e-9",
        ],
    )
    pairs = [TrainingPair(make_cells((12, 64, 64), seed=0), None)]
    for name in ("whole", "killed-3", "killed-6"):
        create_run(build_config(tree), pairs, tmp_path, name)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same") == 2
