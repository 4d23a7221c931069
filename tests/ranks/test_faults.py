"""What goes wrong in one rank of a real training."""

import sys

import pytest
import torch

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.events import Finished, Notice, Progress
from napari_volseg.failures import JobError
from napari_volseg.planning import plan_training
from napari_volseg.ranks import supervise
from napari_volseg.runs import read_run
from napari_volseg.settling import settle
from napari_volseg.worker import run_job

pytestmark = pytest.mark.slow

RANK = """
import sys
import torch
import napari_volseg.learner as learner
from napari_volseg.ranks import serve_rank

add_gradients = learner.add_gradients
calls = []

def troubled(network, *others):
    calls.append(1)
    losses = add_gradients(network, *others)
    if torch.distributed.get_rank() == 1:
        n_parts = others[-1]
        ACTION
    return losses

learner.add_gradients = troubled
sys.exit(serve_rank())
"""


def _train(folder, action):
    config, pairs = read_run(folder)
    plan = settle(plan_training(config, pairs, folder))
    command = [sys.executable, "-c", RANK.replace("ACTION", action)]
    spec = {"plan": plan.to_json(), "resume": False}
    return list(supervise(folder, spec, 2, rank_timeout=60, command=command))


def test_one_rank_short_of_memory_makes_the_batches_of_all_smaller(make_run):
    run = make_run("system.training.num_processes=2", name="short")
    action = "if n_parts == 1: raise torch.OutOfMemoryError('CUDA out of memory')"
    events = _train(run, action)
    assert isinstance(events[-1], Finished)
    assert any("1 patches at a time" in e.message for e in events if _is_news(e))
    alone = make_run(
        "system.training.batch_size=1",
        "optimization.accumulate_grad_batches=4",
        name="alone",
    )
    assert run_job(alone).reason == "completed"
    torch.testing.assert_close(_weights(run), _weights(alone))


def test_one_rank_without_a_finite_gradient_lets_all_skip(make_run):
    run = make_run("system.training.num_processes=2")
    events = _train(run, "if len(calls) == 2: losses = losses * float('nan')")
    assert isinstance(events[-1], Finished)
    assert [e.skipped for e in events if isinstance(e, Progress)][-1] == 1
    assert all(bool(torch.isfinite(w).all()) for w in _weights(run).values())


def test_a_rank_that_fails_in_a_step_is_named_with_its_traceback(make_run):
    run = make_run("system.training.num_processes=2")
    with pytest.raises(JobError, match="process 2 of 2 failed: the dog ate it"):
        _train(run, "raise ValueError('the dog ate it')")
    log = (run / "worker.log").read_text()
    assert log.count("Traceback") == 1
    assert "the dog ate it" in log


def _is_news(event):
    return isinstance(event, Notice)


def _weights(folder):
    return load_checkpoint(folder / "checkpoints")["network"]
