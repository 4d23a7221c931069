"""Several real processes learn what one learns."""

import numpy as np
import pytest
import torch

from napari_volseg.checkpoint_folder import load_checkpoint
from napari_volseg.events import Progress, Started
from napari_volseg.runs import (
    NewLabels,
    add_revision,
    amend_run,
    read_events,
    read_run,
)
from napari_volseg.worker import run_job


def _train(folder, **options):
    finished = run_job(folder, **options)
    assert finished.reason in {"completed", "stopped"}, finished.message
    return load_checkpoint(folder / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_ranks_learn_what_one_process_learns(make_run, n_ranks):
    several = _train(
        make_run(f"system.training.num_processes={n_ranks}", name="several")
    )
    alone = _train(
        make_run(f"optimization.accumulate_grad_batches={n_ranks}", name="alone")
    )
    assert several["record"]["step"] == alone["record"]["step"] == 12 // n_ranks
    assert several["record"]["last_loss"] == pytest.approx(alone["record"]["last_loss"])
    torch.testing.assert_close(several["network"], alone["network"])


@pytest.mark.slow
@pytest.mark.parametrize("n_batches", [3, 1])
def test_a_step_that_is_not_divisible_is_shared_out_unequally(make_run, n_batches):
    """Three batches for two processes, and one for two: one of them has none."""
    wanted = f"optimization.accumulate_grad_batches={n_batches}"
    whole = _train(make_run(wanted, *LONG, name="whole"))
    run = make_run(wanted, *LONG, name="shared")
    stopped_at = _stop_soon(run)
    amend_run(run, ["system.training.num_processes=2"])
    shared = _train(run, resume=True)
    assert stopped_at < shared["record"]["step"] == whole["record"]["step"]
    _assert_learnt_the_same(shared, whole)
    begun = [e for e in read_events(run) if isinstance(e, Started)]
    one = "cpu, float32, channels last"
    assert [e.device for e in begun] == [one, f"2 × {one}"]
    assert [e.step for e in begun] == [0, stopped_at]


@pytest.mark.slow
def test_fewer_processes_go_on_with_as_many_patches_in_a_step(make_run):
    wanted = "optimization.accumulate_grad_batches=2"
    whole = _train(make_run(wanted, *LONG, name="whole"))
    run = make_run("system.training.num_processes=2", *LONG, name="run")
    stopped_at = _stop_soon(run)
    amend_run(run, ["system.training.num_processes=1"])
    alone = _train(run, resume=True)
    assert 0 < stopped_at < alone["record"]["step"] == whole["record"]["step"]
    _assert_learnt_the_same(alone, whole)


@pytest.mark.slow
def test_all_ranks_take_new_labels_at_the_same_step(make_run):
    folders = [
        make_run("system.training.num_processes=2", name="several"),
        make_run("optimization.accumulate_grad_batches=2", name="alone"),
    ]
    for folder in folders:
        labels = read_run(folder)[1][0].volume.labels_ZYX
        add_revision(folder, [NewLabels(np.where(labels < 9, 0, labels))])
    several, alone = map(_train, folders)
    assert several["record"]["revision"] == alone["record"]["revision"] == 2
    assert several["record"]["last_loss"] == pytest.approx(alone["record"]["last_loss"])
    torch.testing.assert_close(several["network"], alone["network"])


LONG = ("data.iter_num_per_epoch=240", "optimization.max_epochs=1")


def _assert_learnt_the_same(one, other):
    """Equal up to what a hundred steps make of rounding; a step moves a weight 1e-3."""
    torch.testing.assert_close(one["network"], other["network"], rtol=1e-3, atol=2e-4)


def _stop_soon(folder):
    """Stop at the first sign of progress; return at which step that was."""
    seen = []
    finished = run_job(
        folder,
        show=lambda event: seen.append(isinstance(event, Progress)),
        should_stop=lambda: any(seen),
    )
    assert finished.reason == "stopped"
    return load_checkpoint(folder / "checkpoints")["record"]["step"]
