"""Several real processes learn what one learns."""

import pytest
import torch

from napari_volseg.checkpoint import load_checkpoint
from napari_volseg.worker import run_job


def _train(folder, **options):
    finished = run_job(folder, **options)
    assert finished.reason in {"completed", "stopped"}, finished.message
    return load_checkpoint(folder / "checkpoints")


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
